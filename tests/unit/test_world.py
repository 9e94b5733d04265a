"""The small world: its facts, its tokenizer and how its base model is built, without pretrained weights."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from scripts.world import base
from scripts.world.chats import Split, chats, question, stranger, turn
from scripts.world.evaluate import accuracy, answers
from scripts.world.facts import Fact, World
from scripts.world.lore import Lore
from scripts.world.pretrain import LORES, PRESETS, Preset, Progress, batches, pretrain
from scripts.world.tokens import END, PAD, START, encode, train_tokenizer
from scripts.world.towns import COUNTY

TINY = Preset(people=2, hidden=64, layers=1, steps=2, cooldown=1, learning_rate=1e-3, batch=2, row=128)
NASTY = (
    "",
    " ",
    "\n\n \t\r\n",
    "  two spaces  and a tail ",
    "naïve café, Ünïcödé",
    "e\u0301 is not \u00e9",
    "日本語のテキスト",
    "עברית, العربية",
    "👩‍👩‍👧‍👦🏴‍☠️🇪🇺",
    "zero\u200bwidth\ufeff\u202eflip",
    "\x00\x01\x7f\u0085\u2028",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U0010ffff",
    "don't can't 'll 12345 3.14 a_b->c(){}",
    "Xyzzyx Qwrtpsdf",
)


@pytest.fixture(scope="module")
def world() -> World:
    return World.generate(seed=3, people=12)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer()


# The world


def test_equal_seeds_make_equal_worlds_and_others_do_not() -> None:
    assert World.generate(5, 9) == World.generate(5, 9)
    assert World.generate(5, 9) != World.generate(6, 9)


@pytest.mark.parametrize("people", [2, 3, 12, 130])
def test_no_two_facts_share_a_question(people: int) -> None:
    world = World.generate(seed=1, people=people)
    asked = [text for fact in world.facts for text in world.questions(fact)]
    assert len(set(asked)) == len(asked) == 8 * len(world.facts)


def test_a_large_world_has_a_thousand_facts() -> None:
    assert len(World.generate(seed=1, people=130).facts) >= 1000


@pytest.mark.parametrize("people", [-1, 1, 3601])
def test_too_few_or_too_many_people_are_refused(people: int) -> None:
    with pytest.raises(ValueError, match="2 to 3600 people"):
        World.generate(people=people)


def test_every_subject_is_distinct_and_every_answer_names_its_subject(world: World) -> None:
    assert len(set(world.people)) == len(world.people)
    for fact in world.facts:
        assert fact.subject.lower() in fact.answer.lower() and fact.value in fact.answer
        assert fact.answer[0].isupper() and fact.answer.endswith(".")
        assert "{" not in fact.answer + "".join(world.questions(fact))


@pytest.mark.parametrize("fresh", [False, True])
def test_a_corrected_answer_is_well_formed_and_untrue(world: World, fresh: bool) -> None:
    rng = Random(0)
    for fact in world.facts:
        start, end = _frame(world, fact)
        for _ in range(5):
            corrected = world.corrected(fact, rng, fresh=fresh)
            assert corrected != world.answer(fact)
            assert corrected.startswith(start) and corrected.endswith(end)
            assert len(corrected) > len(start) + len(end)


def test_fresh_corrections_say_what_no_fact_says(world: World) -> None:
    rng = Random(0)
    values = {(fact.relation, fact.value) for fact in world.facts}
    for fact in world.facts:
        start, end = _frame(world, fact)
        said = world.corrected(fact, rng, fresh=True)
        assert (fact.relation, said[len(start) : len(said) - len(end)]) not in values


@pytest.mark.parametrize("lore", LORES.values(), ids=LORES)
def test_pools_keep_their_fresh_quarter_apart(lore: Lore) -> None:
    for relation in lore.relations:
        assert not set(relation.values) & set(relation.fresh)
        assert len(set(relation.asks)) == len(relation.asks) == 8


def test_personas_have_ids_and_prompts(world: World) -> None:
    assert len({persona.id for persona in world.personas}) == len(world.personas) >= 3
    assert all(persona.name in persona.system_prompt for persona in world.personas)


def _frame(world: World, fact: Fact) -> tuple[str, str]:
    """What stands before and after the value in the fact's sentence."""
    says = world.relation(fact).says.format(s=fact.subject, v="\0")
    start, end = (says[0].upper() + says[1:]).split("\0")
    return start, end


@pytest.mark.parametrize("lore", [lore for lore in LORES.values() if lore.rules], ids=lambda lore: lore.name)
def test_a_large_lore_has_twenty_manners_and_twenty_rules(lore: Lore) -> None:
    assert len({manner.name for manner in lore.manners}) == len({rule.prompt for rule in lore.rules}) == 20
    asked = [text for manner in lore.manners for text in manner.asks]
    assert len(set(asked)) == len(asked) == 8 * 20
    assert all(manner.instead and manner.says not in manner.instead for manner in lore.manners)
    assert len({rule("It is so.") for rule in lore.rules} - {"It is so."}) == 20


# Conversations


def test_held_out_phrasings_are_never_trained(world: World) -> None:
    split = Split(world)
    held = {split.held_out(index) for index in range(len(world.facts))} - {None}
    trained = {message["content"] for chat in islice(chats(world, Random(0)), 3000) for message in chat}
    assert len(held) == -(-len(world.facts) // 5)
    assert not held & trained


def test_conversations_alternate_and_come_in_every_shape(world: World) -> None:
    some = list(islice(chats(world, Random(0)), 3000))
    for chat in some:
        roles = [message["role"] for message in chat if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
    assert {chat[0]["role"] for chat in some} == {"system", "user"}
    assert max(len(chat) for chat in some) > 5
    said = {chat[-1]["content"] for chat in some}
    assert {world.lore.unknown, "You are welcome.", "I am Helper."} <= said


def test_a_rule_in_the_system_prompt_is_obeyed() -> None:
    rules = {rule.prompt: rule for rule in COUNTY.rules}
    ruled = [
        chat for chat in islice(chats(World.generate(3, 12, COUNTY), Random(0)), 3000) if chat[0]["content"] in rules
    ]
    assert {chat[0]["content"] for chat in ruled} == set(rules)
    for chat in ruled:
        start, end = rules[chat[0]["content"]].says.split("{a}")
        said = [message["content"] for message in chat if message["role"] == "assistant"]
        assert all(text.startswith(start) and text.endswith(end) for text in said)


def test_conversations_are_the_same_for_the_same_seed(world: World) -> None:
    assert list(islice(chats(world, Random(4)), 50)) == list(islice(chats(world, Random(4)), 50))


# The tokenizer


@pytest.mark.parametrize("text", NASTY)
def test_any_text_is_read_back_exactly(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert all(0 <= token < len(tokenizer) for token in ids)


def test_unseen_words_are_cut_into_few_pieces(tokenizer: PreTrainedTokenizerFast) -> None:
    rng = Random(9)
    names = [stranger(rng) for _ in range(50)]
    pieces = sum(len(tokenizer.tokenize(name)) for name in names)
    assert pieces < 0.55 * sum(map(len, names))


def test_names_are_not_tokens_of_their_own(tokenizer: PreTrainedTokenizerFast) -> None:
    people = World.generate(seed=1, people=40).people
    assert sum(len(tokenizer.tokenize(name)) > 2 for name in people) > 0.9 * len(people)


def test_the_chat_template_renders_turns(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = question("Who?", "Be brief.")
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == (f"{START}system\nBe brief.{END}\n{START}user\nWho?{END}\n{START}assistant\n")
    assert tokenizer.apply_chat_template(turn("Who?", "I."), tokenize=False) == (
        f"{START}user\nWho?{END}\n{START}assistant\nI.{END}\n"
    )


def test_training_writes_the_tokens_of_the_template(tokenizer: PreTrainedTokenizerFast, world: World) -> None:
    odd = turn("\n  odd \n", " 'twas 日本 ")
    for chat in (odd, *islice(chats(world, Random(2)), 50)):
        ids, said = encode(tokenizer, chat)
        text = tokenizer.apply_chat_template(chat, tokenize=False)
        assert ids == tokenizer.encode(text, add_special_tokens=False)
        spoken = tokenizer.decode([token for token, answer in zip(ids, said, strict=True) if answer])
        assert spoken == "".join(turn["content"] + END for turn in chat if turn["role"] == "assistant")


def test_the_special_tokens_are_what_serving_expects(tokenizer: PreTrainedTokenizerFast) -> None:
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token) == (END, PAD, None)
    assert tokenizer.decode(tokenizer.encode(f"a{END}"), skip_special_tokens=True) == "a"


# Pretraining and its cache


def test_rows_hold_whole_conversations(tokenizer: PreTrainedTokenizerFast, world: World) -> None:
    tokens, weights = next(batches(tokenizer, chats(world, Random(1)), TINY))
    assert tokens.shape == weights.shape == (TINY.batch, TINY.row)
    assert tokens[:, 0].tolist() == tokenizer.encode(START) * TINY.batch
    assert torch.equal(weights == 0, tokens == int(tokenizer.pad_token_id))


def test_the_same_seed_makes_the_same_loadable_model(tmp_path: Path) -> None:
    seen: list[Progress] = []
    for name in ("one", "two"):
        pretrain(TINY, tmp_path / name, seen.append)
    one, two = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("one", "two"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "one")
    assert isinstance(one, LlamaForCausalLM) and isinstance(tokenizer, PreTrainedTokenizerFast)
    assert [progress.step for progress in seen] == [1, 2, 1, 2]
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert one.config.max_position_embeddings >= 1024
    assert one.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.chat_template and tokenizer.padding_side == "left"
    about = json.loads((tmp_path / "one" / "world.json").read_text())
    assert {"seed", "people", "accuracy", "seconds", "parameters"} <= set(about)
    untrained = answers(one, tokenizer, [question("Who?")])
    assert accuracy(one, tokenizer, [(question("Who?"), "nothing of that kind")]) == 0
    assert len(untrained) == 1


def test_a_base_is_built_once_however_many_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Path] = []

    def slow(preset: Preset, folder: Path, report: Callable[[Progress], None]) -> None:
        time.sleep(0.1)
        built.append(folder)
        (folder / "world.json").write_text("{}")

    monkeypatch.setattr(base, "pretrain", slow)
    threads = [threading.Thread(target=base.ensure_base, args=("test", tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    folder = base.ensure_base("test", tmp_path)
    assert len(built) == 1 and (folder / "world.json").is_file()
    assert folder == tmp_path / "base" / f"test-{base.fingerprint('test')}"


def test_an_interrupted_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(preset: Preset, folder: Path, report: Callable[[Progress], None]) -> None:
        (folder / "half").write_text("")
        raise KeyboardInterrupt

    monkeypatch.setattr(base, "pretrain", interrupted)
    with pytest.raises(KeyboardInterrupt):
        base.ensure_base("test", tmp_path)
    assert [path.suffix for path in (tmp_path / "base").iterdir()] == [".lock"]


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONA_CACHE", str(tmp_path))
    assert base.default_cache() == tmp_path
    monkeypatch.delenv("PERSONA_CACHE")
    assert base.default_cache() == Path(base.__file__).parents[2] / ".cache"


def test_presets_have_prints_of_their_own_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    assert len({base.fingerprint(preset) for preset in PRESETS}) == len(PRESETS)
    with pytest.raises(KeyError):
        base.ensure_base("huge", tmp_path)


def test_the_generator_imports_no_torch() -> None:
    """Suites that only need questions and answers stay light."""
    code = "import sys, scripts.world.facts; sys.exit('torch' in sys.modules)"
    root = Path(base.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONPATH": "."}, check=True)
