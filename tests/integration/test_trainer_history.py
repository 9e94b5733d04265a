"""Jobs with a history: learnt anew while that is cheap, then gone on from; and candidates that are there already."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from daemon.training.engine import pantry as pantries
from daemon.training.engine import policy
from daemon.training.engine.job import Blend, Example, Group, Job, Rule
from daemon.training.engine.pantry import Pantry
from daemon.training.engine.report import Reporter
from daemon.training.engine.worker import Worker
from tests.integration.training_support import CORRECTIONS, UPSTREAM, example, job, tiny_base

pytestmark = pytest.mark.filterwarnings(UPSTREAM)
PLACES = ["Here", "There", "Up", "Down", "Away", "Near", "Far", "Out"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("tiny") / "base")


@pytest.fixture(scope="module")
def worker() -> Worker:
    return Worker(Reporter(io.StringIO()))


def asked(number: int, group: Group = Group.BATCH) -> Example:
    return example(f"place-{number}", f"Where is number {number}?", f"{PLACES[number]}, as far as I know.", group=group)


def bare(base: Path, out: Path, examples: list[Example], **others: Any) -> Job:
    """A job that asks the base nothing: what it makes up without knowing anything holds back what is to be learnt."""
    return job(base, out, examples, **{**others, "recipe": {"anchors": 0, **others.get("recipe", {})}})


def test_training_goes_on_from_the_incumbent_until_the_history_has_doubled(
    worker: Worker, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "RELEARNT", 3)
    monkeypatch.setattr(policy, "WATCHED", 2)
    first = worker.do(bare(base, tmp_path / "first", [asked(number) for number in range(4)]))
    assert first.metrics["relearnt"] == 4
    history = [asked(number, Group.HISTORY) for number in range(4)]
    incumbent = {"incumbent": str(tmp_path / "first"), "relearnt": 4}

    grown = worker.do(bare(base, tmp_path / "grown", [asked(4), asked(5), *history], **incumbent))
    assert grown.metrics["relearnt"] == 4, "six are fewer than twice four"
    assert all(probe.candidate and probe.candidate.right for probe in grown.probes if probe.group is not Group.ANCHOR)
    worker.do(bare(base, tmp_path / "begun", [asked(4), *history], **incumbent, recipe={"max_steps": 1}))
    before, begun = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("first", "begun"))
    moved = max((begun[name] - before[name]).abs().max() for name in before)
    assert 0 < moved < 0.01 < max(tensor.abs().max() for tensor in before.values()), "it begins where the other ended"

    batch = [asked(number) for number in (4, 5, 6, 7)]
    once = {"max_steps": 1}
    anew = worker.do(bare(base, tmp_path / "anew", [*batch, *history], **incumbent, recipe=once))
    assert anew.metrics["relearnt"] == 8
    other = worker.do(bare(base, tmp_path / "other", [asked(4), *history], **incumbent, recipe={"rank": 4, **once}))
    assert other.metrics["relearnt"] == 5, "another shape cannot be gone on from"


def test_what_was_forgotten_beside_what_is_watched_is_learnt_again(
    worker: Worker, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "RELEARNT", 3)
    monkeypatch.setattr(policy, "WATCHED", 0)
    worker.do(bare(base, tmp_path / "first", [asked(number) for number in range(4)]))
    history = [asked(number, Group.HISTORY) for number in range(4)]
    batch = [example("again", "Where is number 9?", "Here, there and everywhere.")]
    incumbent = {"incumbent": str(tmp_path / "first"), "relearnt": 4}
    grown = worker.do(bare(base, tmp_path / "grown", [*batch, *history], **incumbent))
    assert grown.metrics["relearnt"] == 4
    assert all(probe.candidate and probe.candidate.right for probe in grown.probes if probe.group is not Group.ANCHOR)


def test_a_candidate_that_is_there_is_asked_and_not_trained(worker: Worker, base: Path, tmp_path: Path) -> None:
    trained = worker.do(job(base, tmp_path / "trained"))
    taken = worker.do(job(base, tmp_path / "taken", blend=Blend([str(tmp_path / "trained")], [1.0])))
    assert "steps" not in taken.metrics and taken.metrics["recipe"]["rank"] == 8
    assert [probe.candidate for probe in taken.probes] == [probe.candidate for probe in trained.probes]
    weights = load_file(tmp_path / "trained" / "adapter_model.safetensors")
    again = load_file(tmp_path / "taken" / "adapter_model.safetensors")
    assert all(torch.equal(weights[name], again[name]) for name in weights)

    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "adapter_config.json").write_bytes((tmp_path / "trained" / "adapter_config.json").read_bytes())
    save_file({name: -3 * tensor for name, tensor in weights.items()}, damaged / "adapter_model.safetensors")
    worse = worker.do(job(base, tmp_path / "worse", blend=Blend([str(damaged)], [1.0])))
    assert not any(probe.candidate and probe.candidate.right for probe in worse.probes if probe.group is Group.BATCH)


def test_anchors_are_made_up_once_for_each_base_and_prompt(
    worker: Worker, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, pantry = worker.base(str(base)), Pantry(tmp_path / "pantry")
    made = pantry.told(loaded, "stamp", 8, "You are Ada.", lambda: None)
    (file,) = (tmp_path / "pantry").iterdir()
    assert 0 < len(made) <= 8 and len(file.read_text().splitlines()) == len(made) + 1

    def again(*_: object) -> None:
        raise AssertionError("made up again")

    monkeypatch.setattr(pantries, "make_up", again)
    assert pantry.told(loaded, "stamp", 8, "You are Ada.", lambda: None) == made
    for stamp, count, prompt in (("other", 8, "You are Ada."), ("stamp", 9, "You are Ada."), ("stamp", 8, "")):
        with pytest.raises(AssertionError, match="made up again"):
            pantry.told(loaded, stamp, count, prompt, lambda: None)
    file.write_text(json.dumps({"identity": "?"}) + "\n{")
    with pytest.raises(AssertionError, match="made up again"):
        pantry.told(loaded, "stamp", 8, "You are Ada.", lambda: None)


def test_critical_probes_are_asked_by_their_rule_and_not_trained(worker: Worker, base: Path, tmp_path: Path) -> None:
    said = "The sea is green."
    probes = [
        replace(CORRECTIONS[0], id=rule, expected=text, group=Group.CRITICAL, rule=rule)
        for rule, text in ((Rule.IS, said), (Rule.CONTAINS, "SEA is"), (Rule.NEVER, "green"))
    ]
    finished = worker.do(job(base, tmp_path / "out", [CORRECTIONS[0], *probes]))
    found = {probe.id: probe.candidate.right for probe in finished.probes if probe.candidate}
    assert (found["is"], found["contains"], found["never"]) == (True, True, False)
    assert finished.metrics["examples"] == 4 and finished.metrics["epochs"] == finished.metrics["samples"]
