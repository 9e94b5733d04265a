"""Whole jobs on a tiny real model, in this process: what is learnt, what is left alone, what is left behind."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from daemon.training.engine import lora, policy
from daemon.training.engine.course import Course
from daemon.training.engine.job import Alive, Event, Finished, Group, Loaded, Step, parse_event
from daemon.training.engine.report import JobFailed, Reporter
from daemon.training.engine.worker import Worker
from tests.integration.training_support import CORRECTIONS, UPSTREAM, endless, example, job, tiny_base

pytestmark = pytest.mark.filterwarnings(UPSTREAM)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="module")
def worker() -> Worker:
    return Worker(Reporter(io.StringIO()))


@pytest.fixture(scope="module")
def learnt(worker: Worker, base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Finished, Path]:
    out = tmp_path_factory.mktemp("learnt") / "parent" / "out"
    return worker.do(job(base, out)), out


def logits(worker: Worker, base: Path) -> torch.Tensor:
    loaded = worker.base(str(base))
    ids = torch.tensor([loaded.chat.prompt_ids(CORRECTIONS[1].messages)])
    with torch.no_grad():
        found: torch.Tensor = loaded.model(ids).logits
    return found


@contextmanager
def heard(worker: Worker) -> Iterator[list[Event]]:
    """The events that the worker reports meanwhile."""
    stream, before = io.StringIO(), worker.report
    events: list[Event] = []
    worker.report = Reporter(stream)
    try:
        yield events
    finally:
        worker.report = before
        events.extend(parse_event(line) for line in stream.getvalue().splitlines())


def test_learns_a_batch_and_says_how_long_each_stage_took(learnt: tuple[Finished, Path]) -> None:
    finished, _ = learnt
    assert finished.trained
    for probe in finished.probes:
        assert probe.candidate is not None
        assert (probe.incumbent.right, probe.candidate.right, probe.candidate.match) == (False, True, 1.0)
        assert probe.candidate.margin > probe.incumbent.margin
    assert finished.metrics["accuracy"] == 1.0
    assert finished.metrics["steps"] < 400
    assert finished.metrics["samples"] > finished.metrics["epochs"] > 1
    stages = {"load", "probe_incumbent", "anchors", "surroundings", "train", "probe_candidate"}
    assert set(finished.metrics["seconds"]) == stages


def test_writes_a_config_that_names_the_base_as_the_job_does(learnt: tuple[Finished, Path], base: Path) -> None:
    config = json.loads((learnt[1] / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == (str(base), 8, 16)
    assert config["inference_mode"] and config["target_modules"] == sorted(config["target_modules"])


def test_reports_every_step_and_the_share_learnt(worker: Worker, base: Path, tmp_path: Path) -> None:
    with heard(worker) as events:
        finished = worker.do(job(base, tmp_path / "out"))
    steps = [event for event in events if isinstance(event, Step)]
    assert [step.step for step in steps] == list(range(1, finished.metrics["steps"] + 1))
    assert steps[-1].learnt == 1.0 and steps[0].learnt is None
    assert steps[-1].loss < steps[0].loss
    assert next(type(event) for event in events if not isinstance(event, Alive)) is Loaded


def test_the_same_job_gives_the_same_bytes(learnt: tuple[Finished, Path], base: Path, tmp_path: Path) -> None:
    Worker(Reporter(io.StringIO())).do(job(base, tmp_path / "again"))
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (learnt[1] / name).read_bytes()


def test_leaves_the_base_as_it_was_over_many_jobs(worker: Worker, base: Path, tmp_path: Path) -> None:
    before, sizes = logits(worker, base), []
    for number in range(5):
        worker.do(job(base, tmp_path / str(number), recipe={"max_steps": 4}))
        assert torch.equal(logits(worker, base), before)
        sizes.append(psutil.Process().memory_info().rss)
    assert sizes[-1] - sizes[1] < 30 * 2**20
    assert not any(parameter.requires_grad for parameter in worker.base(str(base)).model.parameters())


def test_what_the_incumbent_answers_already_is_not_trained(
    worker: Worker, learnt: tuple[Finished, Path], base: Path, tmp_path: Path
) -> None:
    before = logits(worker, base)
    finished = worker.do(job(base, tmp_path / "out", incumbent=str(learnt[1])))
    assert not finished.trained and not (tmp_path / "out").exists()
    assert all(probe.incumbent.right and probe.candidate is None for probe in finished.probes)
    assert torch.equal(logits(worker, base), before)


def test_affirmations_alone_need_no_training(worker: Worker, base: Path, tmp_path: Path) -> None:
    kept = [replace(CORRECTIONS[0], group=Group.AFFIRMATION)]
    finished = worker.do(job(base, tmp_path / "out", kept))
    assert not finished.trained and not finished.probes


def test_history_is_kept_while_a_batch_is_learnt(
    worker: Worker, learnt: tuple[Finished, Path], base: Path, tmp_path: Path
) -> None:
    history = [replace(row, group=Group.HISTORY) for row in CORRECTIONS]
    batch = [example("sky", "What colour is the sky?", "Grey, as a rule.")]
    finished = worker.do(job(base, tmp_path / "out", batch + history, incumbent=str(learnt[1])))
    assert [probe.group for probe in finished.probes] == [Group.BATCH] + [Group.HISTORY] * 3
    assert all(probe.candidate and probe.candidate.right for probe in finished.probes)


def test_a_batch_that_corrects_an_earlier_answer_wins(worker: Worker, base: Path, tmp_path: Path) -> None:
    old = replace(CORRECTIONS[0], id="old", expected="The sea is blue.", group=Group.HISTORY)
    finished = worker.do(job(base, tmp_path / "out", [CORRECTIONS[0], old]))
    said = {probe.id: probe.candidate.right for probe in finished.probes if probe.candidate}
    assert said == {"sea": True, "old": False}


def test_the_fixed_policy_trains_its_epochs_over_the_batch_from_the_incumbent(
    worker: Worker, learnt: tuple[Finished, Path], base: Path, tmp_path: Path
) -> None:
    batch = [example(f"n{number}", f"What is {number}?", f"{number} it is.") for number in range(6)]
    history = [replace(row, group=Group.HISTORY) for row in CORRECTIONS]
    fixed = {"policy": "fixed", "rank": 4}
    finished = worker.do(job(base, tmp_path / "out", batch + history, recipe=fixed, incumbent=str(learnt[1])))
    assert (finished.metrics["steps"], finished.metrics["samples"], finished.metrics["epochs"]) == (6, 18, 3)
    # At 2e-4 nothing is learnt, and what the incumbent knew is still there: so it began with the incumbent's weights.
    right = {probe.id for probe in finished.probes if probe.candidate and probe.candidate.right}
    assert right == {row.id for row in CORRECTIONS}
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 8
    followed = finished.metrics["recipe"]
    assert (followed["rank"], followed["alpha"], followed["learning_rate"]) == (8, 16, 2e-4)
    assert "model.layers.0.self_attn.q_proj" in followed["target_modules"]


def test_a_spent_budget_gives_the_best_state_seen(worker: Worker, base: Path, tmp_path: Path) -> None:
    spent = replace(endless(base, tmp_path / "out"), recipe=job(base, tmp_path, recipe={"max_steps": 60}).recipe)
    finished = worker.do(spent)
    assert (finished.metrics["steps"], finished.metrics["accuracy"]) == (60, 0.5)


def test_the_best_state_is_the_one_that_is_left(worker: Worker, base: Path) -> None:
    asked = job(base, Path("/nowhere"))
    with lora.fresh(worker.base(str(base)), asked.recipe) as adapted:
        plan = policy.plan(asked.recipe, 3, 64)
        course = Course(adapted, plan, [()] * 3, 0)
        good, bad = policy.Look([0.5], [1.0]), policy.Look([0.1], [-1.0])
        for look, value in ((bad, 1.0), (good, 2.0), (bad, 3.0)):
            lora.restore(adapted, {name: weight.fill_(value) for name, weight in lora.weights(adapted).items()})
            course.keep(look)
        assert course.settle() == 0.5
        assert all(bool((weight == 2.0).all()) for weight in lora.weights(adapted).values())


def test_while_all_settles_what_drifted_is_held_above_all(worker: Worker, base: Path) -> None:
    asked = job(base, Path("/nowhere"))
    with lora.fresh(worker.base(str(base)), asked.recipe) as adapted:
        plan = policy.plan(asked.recipe, 3, 64)
        course = Course(adapted, plan, [()] * 3, 400)
        astray = set(range(plan.held))
        course.drifted = {at: 1.0 if at in astray else 0.0 for at in range(400)}

        def held() -> float:
            drawn = [course.draw()[1] for _ in range(20)]
            assert all(len(set(anchors)) == plan.held for anchors in drawn)
            return sum(len(astray & {*anchors}) for anchors in drawn) / (20 * plan.held)

        learning = held()
        course.pace.settle(100)
        assert 0.4 < learning < 0.6 < 0.7 < held()


def test_another_base_replaces_the_warm_one(worker: Worker, base: Path, tmp_path: Path) -> None:
    other = tiny_base(tmp_path / "other", seed=1)
    seconds = []
    for folder in (base, other, other):
        with heard(worker) as events:
            worker.base(str(folder))
        seconds += [event.seconds for event in events if isinstance(event, Loaded)]
    assert seconds[1] > 0 and seconds[2] == 0
    tiny_base(other, seed=2)
    with heard(worker) as events:
        worker.base(str(other))
    assert [event.seconds > 0 for event in events if isinstance(event, Loaded)] == [True]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"base_model": "/nowhere/at-all"}, "base model /nowhere/at-all cannot be loaded"),
        ({"incumbent": "/nowhere/layer"}, "the layer /nowhere/layer has no adapter_config.json"),
        ({"recipe": {"policy": "sometimes"}}, "policy 'sometimes' is unknown"),
        (
            {"recipe": {"target_modules": ["no_proj"]}},
            r'= \["no_proj"\] does not fit .* modules are down_proj, gate_proj, k_',
        ),
        ({"recipe": {"target_modules": "(q_proj"}}, "does not fit the base model"),
    ],
)
def test_what_cannot_be_done_gets_a_sentence(
    worker: Worker, base: Path, tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    before = logits(worker, base)
    asked = job(base, tmp_path / "out", **{name: value for name, value in change.items() if name != "base_model"})
    with pytest.raises(JobFailed, match=sentence) as failure:
        worker.do(replace(asked, base_model=str(change.get("base_model", base))))
    told = change.get("recipe", {})
    assert failure.value.blameless is ("policy" not in told), "a folder may come back, somebody may mend the config"
    assert failure.value.retry is ("policy" not in told), "no config lets such a policy through"
    assert not (tmp_path / "out").exists()
    assert torch.equal(logits(worker, base), before)


def test_what_is_too_long_to_read_is_left_out_and_named(worker: Worker, base: Path, tmp_path: Path) -> None:
    long = [example("asked", "why? " * 900, "So."), example("said", "why?", "so " * 900)]
    done = worker.do(job(base, tmp_path / "out", examples=[*CORRECTIONS, *long]))
    assert done.unusable.keys() == {"asked", "said"}
    assert all("tokens more than the base model can read" in why for why in done.unusable.values())
    assert {probe.id for probe in done.probes} == {correction.id for correction in CORRECTIONS}
    rambling = replace(CORRECTIONS[0], original="so " * 900)
    assert worker.do(job(base, tmp_path / "again", examples=[rambling])).unusable == {}
    assert worker.do(job(base, tmp_path / "none", examples=long)).trained is False


def test_an_attempt_never_writes_into_a_folder_that_is_there(worker: Worker, base: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(JobFailed, match="exists already"):
        worker.do(job(base, tmp_path / "out"))


def test_a_loss_that_is_no_number_fails_with_a_sentence(base: Path, tmp_path: Path) -> None:
    worker = Worker(Reporter(io.StringIO()))
    broken = worker.base(str(base))
    with torch.no_grad():
        next(broken.model.parameters()).fill_(float("inf"))
    with pytest.raises(JobFailed, match=r"diverged at step 1 \(loss nan\)"):
        worker.do(job(base, tmp_path / "out", recipe={"policy": "fixed"}))


def test_an_old_conversation_loses_its_oldest_turns_before_it_is_too_long(
    worker: Worker, base: Path, tmp_path: Path
) -> None:
    turns = [{"role": role, "content": "blah " * 30} for _ in range(6) for role in ("user", "assistant")]
    long = replace(CORRECTIONS[1], messages=[CORRECTIONS[1].messages[0], *turns, *CORRECTIONS[1].messages[1:]])
    assert worker.do(job(base, tmp_path / "out", [long], recipe={"max_steps": 8})).trained


def test_what_fits_into_no_memory_is_refused_with_a_sentence(worker: Worker, base: Path, tmp_path: Path) -> None:
    with pytest.raises(
        JobFailed, match=r"training needs at least 0\.\d\d GiB of memory and max_memory_gb allows 0\.20"
    ) as failure:
        worker.do(replace(job(base, tmp_path / "out"), memory_gb=0.2))
    assert failure.value.blameless and failure.value.reason.endswith("raise it")
