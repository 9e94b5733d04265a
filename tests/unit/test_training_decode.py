"""Free-running decoding and what is made of it, on a tiny random model."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from daemon.training.engine import decode as decoding
from daemon.training.engine import evaluate
from daemon.training.engine.anchors import Anchor, anchors_of, make_up, unrelated
from daemon.training.engine.base import Base, load_base
from daemon.training.engine.batches import encode
from daemon.training.engine.decode import decode
from daemon.training.engine.evaluate import READABLE, SPARE, forced, probe
from daemon.training.engine.job import Group
from daemon.training.engine.objectives import drift
from daemon.training.engine.packing.capability import examined
from daemon.training.engine.rules import same_text
from tests.integration.training_support import CORRECTIONS, FAMILIES, example, tiny_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return examined(load_base(str(tiny_base(tmp_path_factory.mktemp("tiny") / "base", "qwen3"))))


def quiet() -> None:
    """Nobody listens."""


def made(base: Base, count: int) -> list[Anchor]:
    return anchors_of(base, make_up(base, count, quiet), "", quiet)


@pytest.mark.parametrize("trees", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_decodes_as_each_prompt_would_alone(family: str, trees: bool, tmp_path: Path) -> None:
    known = examined(
        load_base(str(tiny_base(tmp_path / "base", family)), torch.float64 if family != "gemma2" else None)
    )
    # To compute layers twice is for passes with gradients: decoding needs what transformers forgets then.
    base = replace(known, capability=replace(known.capability, trees=trees), recompute=True)
    assert known.capability.trees
    prompts = [base.chat.prompt_ids([{"role": "user", "content": f"why? {'who? ' * count}"}]) for count in (1, 9, 4, 9)]
    rooms = [12, 5, 30, 8]
    said = decode(base, prompts, rooms, quiet)
    for prompt, room, answer in zip(prompts, rooms, said, strict=True):
        ids = list(prompt)
        with torch.no_grad():
            for _ in range(room):
                ids.append(int(base.model(torch.tensor([ids])).logits[0, -1].argmax()))
                if ids[-1] in base.chat.stop_ids:
                    break
        assert answer == ids[len(prompt) :]


def test_prompts_that_do_not_fit_together_are_decoded_in_turn(base: Base) -> None:
    prompts = [base.chat.prompt_ids([{"role": "user", "content": f"{word}? why?"}]) for word in ("who", "what", "how")]
    together = decode(base, prompts, [9, 5, 7], quiet)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "TOKENS", 1)
        assert decode(base, prompts, [9, 5, 7], quiet) == together


def test_decoding_ends_with_the_token_that_ends_a_turn(base: Base) -> None:
    prompt = base.chat.prompt_ids([{"role": "user", "content": "why?"}])
    (first, *_), *_ = decode(base, [prompt], [8], quiet)
    stopping = replace(base, chat=replace(base.chat, stop_ids=frozenset({first})))
    assert decode(stopping, [prompt], [8], quiet) == [[first]]


def test_every_forced_lead_is_positive_exactly_when_greedy_decoding_says_the_answer(base: Base) -> None:
    prompt = base.chat.prompt_ids([{"role": "user", "content": "why?"}])
    (said,) = decode(base, [prompt], [6], quiet)
    other = [*said[:-1], (said[-1] + 1) % 300]
    right, wrong = forced(base, [(prompt, said), (prompt, other)], quiet)
    assert right.lead > 0 > wrong.lead
    assert (right.agreed, wrong.agreed) == (6, 5)
    # What it would say after a word that is not its own, it does not say.
    strayed = [*said[:2], (said[2] + 1) % 300]
    (rest,) = decode(base, [prompt + strayed], [6], quiet)
    assert forced(base, [(prompt, strayed + rest)], quiet)[0].agreed == 2


def test_a_probe_says_what_was_said_how_far_it_agrees_and_which_answer_is_likelier(base: Base) -> None:
    prompt = base.chat.prompt_ids(CORRECTIONS[0].messages)
    rows, _ = encode(base, [replace(CORRECTIONS[0], original="")])
    (said,) = decode(base, [prompt], [len(rows[0].expected) + SPARE], quiet)
    half = replace(rows[0], expected=[*said[:2], (said[2] + 1) % 300, base.chat.end_id])
    answer, agreeing = probe(base, [*rows, half], quiet)
    assert (answer.right, answer.ended, answer.match) == (False, False, 0.0)
    assert answer.text and base.chat.text(said).startswith(answer.text)
    assert agreeing.match == 0.5
    (known,) = forced(base, [(prompt, rows[0].expected)], quiet)
    assert answer.margin == pytest.approx(-known.loss, abs=1e-5)
    (rival,) = probe(base, encode(base, [replace(CORRECTIONS[0], original=CORRECTIONS[0].expected)])[0], quiet)
    assert rival.margin == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("trees", [True, False])
def test_a_probe_answers_as_free_running_decoding_does_wherever_it_departs(base: Base, trees: bool) -> None:
    base = replace(base, capability=replace(base.capability, trees=trees))
    (row,), _ = encode(base, [CORRECTIONS[0]])
    (said,) = decode(base, [row.prompt], [40], quiet)
    stop = base.chat.end_id
    departing = [replace(row, expected=[*said[:count], stop]) for count in (0, 1, 7, 20)]
    answers = probe(base, departing, quiet)
    for wanted, answer in zip(departing, answers, strict=True):
        (free,) = decode(base, [row.prompt], [len(wanted.expected) + SPARE], quiet)
        assert answer.text == base.chat.text(free)[:READABLE]
    # What ends a turn ends it also where it is expected to go on.
    ending = replace(base, chat=replace(base.chat, stop_ids=frozenset({stop, said[5]})))
    (ended,) = probe(ending, [replace(row, expected=[*said[:9], stop])], quiet)
    first = said.index(said[5])
    assert ended.ended and not ended.right
    assert ended.text == base.chat.text(said[:first])


def test_what_a_forced_pass_has_heard_is_not_decoded_again(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    (row,), _ = encode(base, [CORRECTIONS[0]])
    (said,) = decode(base, [row.prompt], [40], quiet)
    last = next(at for at, token in enumerate(said) if at > 3 and token not in said[:at])
    example = replace(row.example, expected=base.chat.text(said[:last]))
    known = replace(row, example=example, expected=said[: last + 1])
    ending = replace(base, chat=replace(base.chat, stop_ids=frozenset({said[last]})))
    rooms: list[int] = []

    def spied(base: Base, prompts: list[list[int]], left: list[int], *others: Any) -> list[list[int]]:
        rooms.extend(left)
        return decode(base, prompts, left, *others)

    monkeypatch.setattr(evaluate, "decode", spied)
    assert probe(ending, [known], quiet)[0].right
    assert rooms == []
    probe(base, [replace(row, expected=[*said[:4], base.chat.end_id])], quiet)
    assert rooms == [1 + SPARE]


def test_what_half_precision_may_turn_is_decoded(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = base.chat.prompt_ids([{"role": "user", "content": "why?"}])
    half = replace(base, model=copy.deepcopy(base.model))
    half.model.to(torch.bfloat16)  # type: ignore[arg-type]
    monkeypatch.setattr(evaluate, "TIE", 1e9)
    for each, agreed in ((base, 6), (half, 0)):
        (said,) = decode(each, [prompt], [6], quiet)
        assert forced(each, [(prompt, said)], quiet)[0].agreed == agreed


def test_texts_are_equal_but_for_white_space_and_unicode_form() -> None:
    assert same_text(" caf\u00e9  au\nlait", "cafe\u0301 au lait ")
    assert not same_text("Yes.", "yes.")


def test_anchors_are_made_alike_each_time_and_pull_on_nothing_at_first(base: Base) -> None:
    anchors = made(base, 6)
    assert 0 < len(anchors) <= 6
    assert [anchor.question for anchor in made(base, 6)] == [anchor.question for anchor in anchors]
    assert drift(base, [anchor.reference for anchor in anchors]).sum().item() == pytest.approx(0, abs=1e-4)


def test_anchors_near_a_correction_are_left_out(base: Base) -> None:
    (anchor,) = made(base, 1)
    kept = replace(anchor, question="How are you today?", answer="I am well, thank you.")
    asked = replace(anchor, question="Please give UP now.", answer="No way.")
    said = replace(anchor, question="Speak!", answer="I give up, sorry.")
    wrong = example("x", "Please give up now.", "Never!", original="I give up, sorry.", group=Group.BATCH)
    assert unrelated([kept, asked, said], encode(base, [wrong])[0]) == [kept]
