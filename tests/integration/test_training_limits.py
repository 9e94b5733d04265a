"""What a base cannot read is named alone, what is its own fault is no row's, and whoever works says so."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from daemon.training.engine import fitting
from daemon.training.engine import loop as loops
from daemon.training.engine import report as reports
from daemon.training.engine.base import Base, load_base
from daemon.training.engine.batches import encode
from daemon.training.engine.decode import decode
from daemon.training.engine.evaluate import probe
from daemon.training.engine.job import Alive, Example, Group, Recipe, Step, parse_event
from daemon.training.engine.loop import Material
from daemon.training.engine.memory import Fit, Shape, Work, peak
from daemon.training.engine.packing.passes import Line, Places, answer_states
from daemon.training.engine.packing.tree import plant
from daemon.training.engine.policy import plan
from daemon.training.engine.report import JobFailed, Reporter
from daemon.training.engine.worker import Worker
from tests.integration.training_support import (
    ALTERNATING,
    CORRECTIONS,
    FAMILIES,
    UPSTREAM,
    example,
    job,
    templated,
    tiny_base,
)

pytestmark = [
    pytest.mark.filterwarnings(UPSTREAM),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False:UserWarning"),  # PEFT on GPT-2; it then sets it
]


def worker() -> Worker:
    return Worker(Reporter(io.StringIO()))


def talk(name: str, *roles: str) -> Example:
    turns = [{"role": role, "content": "Where does Ada live?"} for role in roles]
    return replace(example(name, "", "Ada lives in Brookford."), messages=turns)


def test_a_conversation_that_the_template_refuses_is_left_out_and_named(tmp_path: Path) -> None:
    base = templated(tmp_path / "base", "gemma2", ALTERNATING + FAMILIES["gemma2"].template)
    refused = [talk("twice", "user", "user"), talk("first", "assistant", "user"), talk("led", "system", "user", "user")]
    examples = [*CORRECTIONS, talk("fine", "user", "assistant", "user"), *refused]
    done = worker().do(job(base, tmp_path / "out", examples, recipe={"max_steps": 4}))
    assert done.trained
    assert {probe.id for probe in done.probes} == {"sea", "ada", "give-up", "fine"}
    assert done.unusable.keys() == {"twice", "first", "led"}
    assert set(done.unusable.values()) == {
        "the base model's chat template refuses the conversation in its context: Conversation roles must alternate"
        " user/assistant/user/assistant/...; insert it again with turns that the template takes, or choose another"
        " base and release it"
    }


def test_what_this_machine_could_never_train_on_is_left_out_and_named(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base", max_position_embeddings=10_000)
    long = example("long", "Where does Ada live? " * 600, "Ada lives in Brookford.")
    examples, recipe = [CORRECTIONS[0], long, *CORRECTIONS[1:]], {"max_steps": 4}
    done = worker().do(job(base, tmp_path / "out", examples, recipe=recipe, memory_gb=0.6))
    assert done.trained and [probe.id for probe in done.probes] == ["sea", "ada", "give-up"]
    assert done.unusable.keys() == {"long"}
    assert re.fullmatch(
        r"training needs at least \d\.\d\d GiB of memory and max_memory_gb allows 0\.60, for its \d,\d{3} tokens;"
        " insert it again, shorter, or raise that and release it",
        done.unusable["long"],
    )


def test_what_does_not_fit_beside_others_waits_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny_base(tmp_path / "base", max_position_embeddings=10_000)
    long = example("long", "Where does Ada live? " * 600, "Ada lives in Brookford.")
    said = io.StringIO()
    ready = Worker(Reporter(said))
    ready.base(str(base))
    monkeypatch.setattr(fitting, "free_memory", lambda limit: int(0.6 * 2**30))
    with pytest.raises(
        JobFailed, match=r"and 0\.60 GiB are there, for a longest example of \d,\d{3} tokens"
    ) as failure:
        ready.do(job(base, tmp_path / "out", [long]))
    assert failure.value.blameless and failure.value.retry
    assert "probing" not in said.getvalue()


def test_strangers_that_are_left_to_learn_are_read_in_passes_no_larger_than_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = [f"Room {room}. " + "This is how we speak. " * 12 for room in "ABCD"]
    corrections = [
        example(f"{room[5]}{at}", f"{at}?", f"{at}.", system=room, original="") for room in rooms for at in range(4)
    ]
    sizes: list[int] = []

    def spied(base: Base, lines: list[Line]) -> tuple[torch.Tensor, Places]:
        sizes.append(len(plant([prompt + answer[:-1] for prompt, answer in lines]).tokens))
        return answer_states(base, lines)

    monkeypatch.setattr(loops, "answer_states", spied)
    # One of each room is left.
    monkeypatch.setattr(loops, "still_open", lambda look: range(0, 16, 4))
    recipe = {"max_steps": 40, "batch_size": 4, "anchors": 0}
    done = worker().do(job(tiny_base(tmp_path / "base"), tmp_path / "out", corrections, recipe=recipe))
    assert max(sizes) <= done.metrics["memory"]["tokens_per_pass"]
    assert len(sizes) > done.metrics["steps"]


def test_what_is_only_read_needs_less_memory_than_what_is_trained(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base", max_position_embeddings=10_000)
    long = example("long", "Where does Ada live? " * 600, "Ada lives in Brookford.", group=Group.HISTORY)
    recipe = {"policy": "fixed", "epochs": 1}
    done = worker().do(job(base, tmp_path / "out", [*CORRECTIONS, long], recipe=recipe, memory_gb=0.6))
    assert not done.unusable and [probe.id for probe in done.probes] == ["sea", "ada", "give-up", "long"]


def test_an_original_answer_that_rambles_on_is_counted_though_nobody_learns_it(tmp_path: Path) -> None:
    base = load_base(str(tiny_base(tmp_path / "base")))
    rambling = replace(CORRECTIONS[0], original="Never! " * 100)
    asked, other = (_work(base, [row]) for row in (rambling, CORRECTIONS[0]))
    assert (asked.tokens, asked.longest, asked.answers) == (other.tokens, other.longest, other.answers)
    assert asked.longest_read > 200 + other.longest_read and asked.probed > 200 + other.probed


def test_logits_that_cannot_be_computed_in_parts_are_planned_whole(tmp_path: Path) -> None:
    base = worker().base(str(tiny_base(tmp_path / "base")))
    usual = _work(base, CORRECTIONS)
    assert usual.whole == 0
    trained = _work(base, CORRECTIONS, Recipe(target_modules=["q_proj", "lm_head"]))
    assert trained.whole == max(trained.answers, trained.said)
    whole = _work(replace(base, capability=replace(base.capability, head=False)), CORRECTIONS)
    assert whole.whole == max(whole.tokens, whole.probed)
    shape = replace(Shape.of(base.folder), vocabulary=256_000)
    few, many = (peak(shape, replace(usual, whole=tokens), Fit(4)) for tokens in (0, 1000))
    assert many - few > 4 * 3 * 900 * 256_000


def _work(base: Base, examples: list[Example], told: Recipe = Recipe(rank=8)) -> Work:
    rows, _ = encode(base, examples)
    return fitting.work(base, Material(rows), rows, plan(Recipe(), len(rows), 64), told)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for m in messages %}", "Unexpected end of template"),
        ("{{ raise_exception('Never!') }}", "Never!"),
        ("{% if add_generation_prompt %}{{ raise_exception('Not now!') }}{% endif %}" + FAMILIES["gemma2"].template,
         "Not now!"),
    ],
    ids=["syntax", "refuses", "refuses-to-answer"],
)  # fmt: skip
def test_a_template_that_takes_nothing_is_the_bases_fault(tmp_path: Path, template: str, why: str) -> None:
    base = templated(tmp_path / "base", "gemma2", template)
    with pytest.raises(JobFailed, match=f"chat template does not take a plain question: {why}") as failure:
        worker().do(job(base, tmp_path / "out"))
    assert failure.value.blameless and failure.value.retry


def test_an_incumbent_of_another_shape_is_not_the_batchs_fault(tmp_path: Path) -> None:
    base, other = tiny_base(tmp_path / "base"), tiny_base(tmp_path / "other", "gpt2")
    assert worker().do(job(other, tmp_path / "layer", recipe={"max_steps": 4})).trained
    with pytest.raises(JobFailed, match="does not fit the base model") as failure:
        worker().do(job(base, tmp_path / "out", incumbent=str(tmp_path / "layer")))
    assert failure.value.blameless


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A base with learned positions, of which there are 512."""
    return load_base(str(tiny_base(tmp_path_factory.mktemp("short") / "base", "gpt2")))


def filling(base: Base, name: str, left: int) -> Example:
    """An example that leaves so many tokens of the base's context."""
    made = example(name, "", "Never!", original="")
    words = 0
    while True:
        longer = replace(made, messages=[{"role": "user", "content": "1" * (words + 1)}])
        room = base.context - len(base.chat.prompt_ids(longer.messages)) - len(base.chat.answer_ids(longer.expected))
        if room <= left:
            return longer
        words += max(1, (room - left) // 2)


def test_an_answer_is_probed_no_further_than_the_base_can_read(short: Base) -> None:
    examples = [filling(short, "full", 0), filling(short, "nearly", 5)]
    rows, unusable = encode(short, examples)
    assert not unusable and [short.context - len(row.prompt) - len(row.expected) for row in rows] == [0, 5]
    silent = replace(short, chat=replace(short.chat, stop_ids=frozenset()))
    rooms = [len(row.expected) + left for row, left in zip(rows, [0, 5], strict=True)]
    said = decode(silent, [row.prompt for row in rows], rooms, lambda: None)
    answers = probe(silent, rows, lambda: None)
    assert [answer.text for answer in answers] == [short.chat.text(tokens) for tokens in said]
    assert not any(answer.ended for answer in answers)


def test_a_row_that_fills_the_context_waits_for_one_that_says_more(short: Base) -> None:
    (full,) = encode(short, [filling(short, "full", 0)])[0]
    brief = short.chat.prompt_ids([{"role": "user", "content": "why?"}])
    endless = replace(short, chat=replace(short.chat, stop_ids=frozenset()))
    rooms = [short.context - len(full.prompt), 60]
    together = decode(endless, [full.prompt, brief], rooms, lambda: None)
    assert [len(said) for said in together] == rooms
    assert together[1] == decode(endless, [brief], rooms[1:], lambda: None)[0]


def test_the_child_says_within_every_step_that_it_is_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "BEAT", 0.0)
    base, stream = tiny_base(tmp_path / "base"), io.StringIO()
    long = [example(f"long{n}", f"{n} " + "why? " * 60, "Never!") for n in range(40)]
    Worker(Reporter(stream)).do(
        job(base, tmp_path / "out", long, recipe={"policy": "fixed", "epochs": 2, "batch_size": 40})
    )
    events = [parse_event(line) for line in stream.getvalue().splitlines()]
    steps = [at for at, event in enumerate(events) if isinstance(event, Step)]
    assert len(steps) == 2
    between = events[steps[0] + 1 : steps[1]]
    assert len(between) > 1, "one for each part of a step that is too large for one pass"
    assert set(between) == {Alive("training")}
