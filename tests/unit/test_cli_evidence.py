"""The page of a run, where little is known of it."""

import io
import time
from dataclasses import asdict
from typing import Any

import pytest
from rich.console import Console, Group

from daemon.cli.evidence import page
from daemon.domain import Correction, Kind, Run, RunState, TraitKey
from daemon.training.engine.job import Recipe

KEY = TraitKey("ada", "rust")


def shown(state: RunState, kinds: list[Kind], **more: Any) -> list[str]:
    rows = [Correction(str(n), KEY, None, "a", "b", "", 0.5, kind, "review", None, 0.0) for n, kind in enumerate(kinds)]
    out = io.StringIO()
    run = Run("r1", KEY, state, "an admin asked", 1, fence=1, created=1000.0, **{"attempt": 1, "failures": 0, **more})
    Console(file=out, width=120).print(Group(*page(run, rows)))
    return [" ".join(line.split()) for line in out.getvalue().splitlines()]


def test_where_nothing_was_trained_there_is_only_a_before() -> None:
    answer = {"text": "Yes.", "right": True}
    evidence = {
        "decision": "satisfied",
        "scores": {"batch": {"probes": 1, "incumbent": 1, "candidate": 1, "lost": 0, "margin_gain": 0.0}},
        "metrics": {"examples": 1, "seconds": {"load": 0.25, "a_stage": 1}, "other_thing": 2},
        "probes": [{"id": "0", "group": "batch", "incumbent": answer, "candidate": None}],
    }
    lines = shown(RunState.SATISFIED, [Kind.CORRECTION], evidence=evidence, finished=4600.0)
    assert "gate before of" in lines
    assert "efficacy 1 of 1 the batch, answered as expected" in lines
    assert "probed 1 example" in lines
    assert "took loading 0.25 s, a stage 1 s" in lines
    assert "other thing 2" in lines
    assert lines[-2:] == ["probe measures right before", "0 efficacy yes Yes."]
    assert any(line.endswith(", after 1 h") for line in lines)


def test_a_run_that_waits_for_its_next_attempt_says_so() -> None:
    kinds = [Kind.CORRECTION, Kind.CORRECTION, Kind.AFFIRMATION]
    lines = shown(RunState.PLANNED, kinds, attempt=3, failures=2, not_before=time.time() + 100_000)
    assert "batch 2 corrections and 1 affirmation" in lines
    assert "attempts 3, 2 of them failed" in lines
    assert any(line.startswith("next attempt not before 2") for line in lines)
    assert not any(line.startswith(("ended", "gate", "took")) for line in lines)


def test_a_wait_that_is_over_is_not_shown() -> None:
    later = time.time() + 100_000
    for state, until in ((RunState.PLANNED, 2000.0), (RunState.TRAINING, later), (RunState.FAILED, later)):
        assert not any(line.startswith("next attempt") for line in shown(state, [Kind.CORRECTION], not_before=until))


def test_what_later_corrections_replaced_is_said() -> None:
    kinds, told = [Kind.CORRECTION] * 10, {"decision": "promote", "superseded": 8, "replaced": 10}
    lines = shown(RunState.PROMOTED, kinds, evidence=told)
    assert "batch 10 corrections, 8 of them replaced by later ones of the same context" in lines
    assert "replaces 10 answers learnt before, of the same contexts" in lines
    lines = shown(RunState.PROMOTED, [*kinds, Kind.AFFIRMATION], evidence={"superseded": 1, "replaced": 1})
    assert "batch 10 corrections, 1 of them replaced by a later one of the same context, and 1 affirmation" in lines
    assert "replaces 1 answer learnt before, of the same context" in lines
    for nothing in ({}, {"superseded": 0, "replaced": 0}):
        lines = shown(RunState.PROMOTED, kinds, evidence=nothing)
        assert "batch 10 corrections" in lines and not any(line.startswith("replaces") for line in lines)


@pytest.mark.parametrize(
    ("suspects", "line"),
    [
        (
            {"ids": ["c0ffee0123", "beef"], "author": "eve", "tried": 3},
            "likely to blame c0ffee01, beef, by eve: without them it would have passed, 3 trainings say",
        ),
        ({"ids": ["beef"], "author": None, "tried": 0, "unlearnt": True}, "likely to blame beef: not learnt"),
        (
            {"ids": ["beef"], "author": None, "tried": 0},
            "likely to blame beef: there is no other correction in the batch",
        ),
        (
            {"ids": [], "author": None, "tried": 2},
            "likely to blame no one's corrections alone: 2 trainings without some of them helped nothing",
        ),
    ],
)
def test_who_is_likely_to_blame_is_said(suspects: dict[str, Any], line: str) -> None:
    lines = shown(RunState.REJECTED, [Kind.CORRECTION], evidence={"decision": "reject", "suspects": suspects})
    assert line in lines
    told = "to learn the rest persona corrections quarantine c0ffee01 beef"
    assert (told in lines) is (suspects["tried"] == 3)
    nothings: list[dict[str, Any]] = [{}, {"ids": [], "author": None, "tried": 0}]
    for nothing in nothings:
        lines = shown(RunState.REJECTED, [Kind.CORRECTION], evidence={"decision": "reject", "suspects": nothing})
        assert not any(line.startswith("likely") for line in lines)


def test_how_a_layer_was_made_is_said() -> None:
    recipe = {**asdict(Recipe(policy="fixed", method="rslora", objective="dpo")), "learning_rate": 0.0002}
    lines = shown(RunState.PROMOTED, [Kind.CORRECTION], evidence={"metrics": {"recipe": recipe}})
    told = "recipe fixed, dpo; rslora of rank 16 and alpha 32 on all-linear; rate 0.0002, 4 a step, seed 0"
    assert told in lines
    recipe["target_modules"] = [f"layer.{number}.q_proj" for number in range(20)]
    lines = shown(RunState.PROMOTED, [Kind.CORRECTION], evidence={"metrics": {"recipe": recipe}})
    assert told.replace("all-linear", "20 modules") in lines
