"""A run from its claim to its end: promoted, satisfied, rejected, failed, set aside."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from daemon.domain import Run, RunState, TraitKey
from daemon.errors import BaseModelUnusable, TrainerFailed
from daemon.learning.status import document
from daemon.learning.turns import backoff, next_run, ready_in
from daemon.training.engine.job import Group, Job, Recipe
from tests.integration.learning_support import School, a_school
from tests.integration.store_support import ADA, execute, planned, speaks, where, write


@pytest.fixture
async def school(tmp_path: Path) -> AsyncIterator[School]:
    async with a_school(tmp_path) as opened:
        yield opened


async def test_a_better_layer_is_promoted_and_says_what_it_learnt(school: School) -> None:
    write(school.path, "one", "two")
    write(school.path, "kept", kind="affirmation")
    with capture_logs() as logs:
        run = await school.learn()
    assert run.state is RunState.PROMOTED and await speaks(school.store) == 1
    assert set(where(school.path).values()) == {"used"}
    layer = (await school.store.genomes.get("ada")).layer("rust")
    assert layer and layer.run_id == run.id and run.layer_path == layer.path
    manifest = school.layers.verify(layer.path)
    assert (manifest.learnt, manifest.rehearsed, manifest.parent) == (["one", "two"], ["kept"], None)
    assert manifest.metrics == {"loss": 0.1} and manifest.base_model == school.config.defaults.base_model
    assert not school.staged() and school.published() == ["v0001"]
    assert [log["event"] for log in logs] == [
        "run.planned", "run.loaded", "run.training", "run.evaluated", "layer.published", "corrections.used",
        "genome.revised",
    ]  # fmt: skip
    assert {log["run"] for log in logs} == {run.id} and {log["persona"] for log in logs} == {"ada"}


async def test_the_next_layer_rehearses_what_the_last_one_learnt(school: School) -> None:
    write(school.path, "one", "two")
    first = await school.learn()
    write(school.path, "three", "four")
    second = await school.learn()
    job = school.trainer.jobs[-1]
    assert job.incumbent == str(school.layers.root / str(first.layer_path))
    groups = {example.id: example.group for example in job.examples}
    assert [name for name in groups if groups[name] is Group.HISTORY] == ["one", "two"]
    manifest = school.layers.verify(str(second.layer_path))
    assert (manifest.learnt, manifest.rehearsed) == (["three", "four"], ["one", "two"])
    parent = (await school.store.genomes.layers(ADA))[1]
    assert manifest.parent == parent.id and parent.version == 1


async def test_a_job_is_what_the_config_says(school: School) -> None:
    recipe = Recipe("fixed", 4, 9, ["q_proj"], 2, 1e-3, 3, 7, 5, "rslora", "orpo", 0.2, 99)
    said = {**asdict(recipe), "threads": 1, "checkpoint": 60}
    school.configure(
        "[training]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in said.items() if key != "careful")
    )
    write(school.path, "one", "two")
    await school.learn()
    job = school.trainer.jobs[-1]
    assert (job.recipe, job.threads, job.checkpoint_every) == (recipe, 1, 60)


async def test_invariant_2_a_batch_that_is_answered_already_is_used_without_a_layer(school: School) -> None:
    write(school.path, "one", "two")
    school.trainer.outcome = "satisfied"
    run = await school.learn()
    assert (run.state, run.reason) == (RunState.SATISFIED, "The served persona already answers 2 of 2 as expected.")
    assert set(where(school.path).values()) == {"used"}
    assert await speaks(school.store) == 0 and not school.published() and not school.staged()


async def test_invariant_5_a_rejected_batch_leaves_everything_and_does_not_come_back(school: School) -> None:
    write(school.path, "one", "two")
    school.trainer.outcome = "worse"
    run = await school.learn()
    assert run.state is RunState.REJECTED and str(run.reason).startswith("It learned nothing")
    assert set(where(school.path).values()) == {"pending"}
    assert await speaks(school.store) == 0 and not school.published() and not school.staged()
    school.now += 100 * 86_400
    write(school.path, "three")
    made = await school.plan(cron=frozenset({""}))
    assert made.runs == [] and made.again_in is None
    assert made.judgements[0].due.why.startswith(
        "the last run was rejected; due again with 2 new corrections (1 so far)"
    )
    write(school.path, "four")
    (again,) = (await school.plan()).runs
    assert again.planned_because == "2 of 2 new corrections since the last run was rejected" and again.version == 2


async def test_a_refused_candidate_is_trained_once_more_with_more_care(school: School) -> None:
    write(school.path, "one", "two")
    school.trainer.outcome = "worse"
    await school.plan()
    run = await school.attempt()
    assert run.state is RunState.PLANNED and run.evidence["decision"] == "reject" and run.failures == 0
    assert str(run.reason).endswith("It is trained once more, at half the rate and held twice as much")
    assert set(where(school.path).values()) == {"claimed"} and not school.published()
    school.trainer.outcome = "better"
    run = await school.attempt()
    assert (run.state, run.attempt) == (RunState.PROMOTED, 2)
    assert [job.recipe.careful for job in school.trainer.jobs] == [False, True]
    assert set(where(school.path).values()) == {"used"} and school.published() == ["v0001"]


async def test_what_somebody_scheduled_is_tried_once(school: School) -> None:
    school.configure('[training]\npolicy = "fixed"')
    write(school.path, "one", "two")
    school.trainer.outcome = "worse"
    await school.plan()
    assert (await school.attempt()).state is RunState.REJECTED
    assert len(school.trainer.jobs) == 1


async def test_a_rejection_names_who_is_likely_to_blame(school: School) -> None:
    write(school.path, "one", "two")
    school.trainer.outcome = "worse"
    run = await school.learn()
    assert sorted(run.evidence["suspects"]["ids"]) == ["one", "two"] and run.evidence["suspects"]["unlearnt"]
    write(school.path, "three", "four", "five")
    school.trainer.outcome, school.trainer.breaks = "better", {"four"}
    run = await school.learn()
    assert run.state is RunState.REJECTED and str(run.reason).startswith("It changed 1 of 1 answers that no correction")
    assert run.evidence["suspects"] == {"ids": ["four"], "author": None, "tried": 5, "unlearnt": False}
    assert not school.staged()


@pytest.mark.parametrize("failure", [TrainerFailed("The trainer died."), OSError(28, "No space left on device")])
async def test_a_verdict_stands_where_nobody_can_be_found_to_blame(school: School, failure: Exception) -> None:
    write(school.path, "one", "two", "three")
    school.trainer.breaks, school.trainer.failures = {"two"}, [None, None, failure]
    run = await school.learn()
    assert run.state is RunState.REJECTED and "suspects" not in run.evidence
    assert set(where(school.path).values()) == {"pending"} and not school.staged()


async def test_a_verdict_is_kept_before_anybody_is_looked_for_to_blame(school: School) -> None:
    write(school.path, "one", "two", "three")
    school.trainer.breaks = {"two"}

    async def stop(job: Job) -> None:
        if "-without-" in job.out:
            note = {"progress": {job.run: {"step": 1, "steps": 2}}}
            (shown,) = (await document(school.store, school.config, note))["runs"]
            assert (shown["state"], shown["step"]) == ("rejected", 1), "what goes on is shown, though the run is over"
            raise asyncio.CancelledError
        school.trainer.meanwhile = stop

    school.trainer.meanwhile = stop
    with pytest.raises(asyncio.CancelledError):
        await school.learn()
    assert await school.state() is RunState.REJECTED and not school.staged()
    assert set(where(school.path).values()) == {"pending"}


async def test_critical_probes_are_asked_and_never_learnt(school: School) -> None:
    file = school.path.parent / "critical.jsonl"
    file.write_text('{"context": "Who are you?", "expected": "I am Ada."}\n', encoding="utf-8")
    school.configure(f'[gate]\ncritical = "{file.name}"')
    write(school.path, "one", "two")
    run = await school.learn()
    (asked,) = (one for one in school.trainer.jobs[-1].examples if one.group is Group.CRITICAL)
    assert run.state is RunState.PROMOTED and (asked.id, asked.expected) == ("critical-1", "I am Ada.")
    manifest = school.layers.verify(str(run.layer_path))
    assert not manifest.rehearsed and len(manifest.learnt) == 2


async def test_a_run_waits_while_its_critical_probes_cannot_be_read(school: School) -> None:
    school.configure('[gate]\ncritical = "none.jsonl"')
    write(school.path, "one", "two")
    run = await school.learn()
    assert (run.state, run.failures) == (RunState.PLANNED, 0) and "mend gate.critical" in str(run.reason)
    assert set(where(school.path).values()) == {"claimed"} and not school.trainer.jobs
    school.configure()
    school.now = run.not_before
    assert (await school.conduct()).state is RunState.PROMOTED


async def test_what_contradicts_a_critical_probe_is_set_aside_before_it_costs_a_training(school: School) -> None:
    file = school.path.parent / "critical.jsonl"
    lines = [{"context": "What is one?", "expected": "It is 1."}, {"context": "What is two?", "contains": "two"}]
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    school.configure(f'[gate]\ncritical = "{file.name}"')
    write(school.path, "one", "two", "three")
    run = await school.learn()
    assert run.state is RunState.PROMOTED and len(school.trainer.jobs) == 1
    assert where(school.path) == {"one": "quarantined", "two": "used", "three": "used"}
    rows = execute(school.path, "SELECT quarantined_reason FROM training_corrections WHERE id = 'one'")
    assert rows == [("it contradicts the critical probe in line 1; mend either, and release it",)]


async def test_what_contradicts_a_critical_probe_replaces_nothing(school: School) -> None:
    write(school.path, "one", "two")
    await school.learn()
    file = school.path.parent / "critical.jsonl"
    file.write_text(json.dumps({"context": "What is one?", "expected": "It is ONE."}), encoding="utf-8")
    school.configure(f'[gate]\ncritical = "{file.name}"')
    write(school.path, "other", original_context="What is one?", expected_response="It is 1.")
    write(school.path, "three")
    run = await school.learn()
    manifest = school.layers.verify(str(run.layer_path))
    assert (manifest.learnt, manifest.rehearsed, manifest.superseded) == (["three"], ["one", "two"], [])
    assert where(school.path)["other"] == "quarantined"


async def test_what_was_refused_is_tried_again_without_what_an_admin_sets_aside(school: School) -> None:
    write(school.path, "one", "two", "three")
    school.trainer.breaks = {"two"}
    assert (await school.learn()).state is RunState.REJECTED
    assert (await school.plan()).runs == []
    state, result = await school.ask("quarantine", ids=["two", "none"], reason="nonsense")
    assert (state, result["quarantined"], len(result["runs"])) == ("done", 1, 1)
    assert (await school.conduct()).state is RunState.PROMOTED
    assert where(school.path) == {"one": "used", "two": "quarantined", "three": "used"}
    assert execute(school.path, "SELECT quarantined_reason FROM training_corrections WHERE id = 'two'") == [
        ("set aside by me: nonsense",)
    ]
    state, result = await school.ask("quarantine", ids=["one"])
    assert state == "refused" and "None of these waits to be learnt" in result["error"]
    # What was in no batch that was refused is simply set aside.
    write(school.path, "four", "five", "six")
    assert await school.ask("quarantine", ids=["four"]) == ("done", {"quarantined": 1, "runs": []})


async def test_nothing_is_let_pass_without_a_critical_probe_that_cannot_be_asked(school: School) -> None:
    file = school.path.parent / "critical.jsonl"
    file.write_text('\n{"context": "Who are you?", "expected": "I am Ada."}\n', encoding="utf-8")
    school.configure(f'[gate]\ncritical = "{file.name}"')
    school.trainer.unusable = {"critical-2": "it is too long"}
    write(school.path, "one", "two")
    run = await school.learn()
    assert (run.state, run.failures) == (RunState.PLANNED, 0)
    assert run.reason == f"Line 2 of the critical probes {file} cannot be asked: it is too long."
    assert set(where(school.path).values()) == {"claimed"} and not school.published()


async def test_a_rejected_batch_comes_back_when_its_critical_probes_change(school: School) -> None:
    file = school.path.parent / "critical.jsonl"
    school.configure(f'[gate]\ncritical = "{file.name}"')
    file.write_text('{"context": "Who?", "expected": "I."}\n', encoding="utf-8")
    write(school.path, "one", "two")
    school.trainer.outcome = "worse"
    await school.learn()
    assert (await school.plan()).runs == []
    file.write_text('{"context": "Who?", "expected": "You."}\n', encoding="utf-8")
    assert len((await school.plan()).runs) == 1


async def test_a_rejected_batch_comes_back_when_its_settings_change(school: School) -> None:
    write(school.path, "one", "two")
    school.trainer.outcome = "worse"
    await school.learn()
    school.configure(PERSONA_TRAINING__NICE="3")
    assert (await school.plan()).runs == [], "that decides nothing of what a layer becomes"
    school.configure(PERSONA_TRAINING__RANK="32")
    assert len((await school.plan()).runs) == 1
    assert (await school.conduct()).state is RunState.REJECTED
    school.configure('system_prompt = "You are Ada."')
    assert len((await school.plan()).runs) == 1


async def test_a_batch_that_was_rejected_with_settings_saved_after_its_plan_does_not_come_back(school: School) -> None:
    write(school.path, "one", "two")
    school.trainer.outcome = "worse"
    await school.plan()
    school.configure(PERSONA_TRAINING__RANK="32")
    assert (await school.conduct()).state is RunState.REJECTED
    assert (await school.plan()).runs == []


async def test_a_rejected_batch_comes_back_when_an_admin_asks_and_is_worn_out_the_third_time(school: School) -> None:
    write(school.path, "one", "two")
    school.trainer.outcome = "worse"
    await school.learn()
    for last in (False, True):
        state, result = await school.ask("train", persona="ada")
        assert state == "done" and len(result["runs"]) == 1
        assert (await school.conduct()).state is RunState.REJECTED
        assert set(where(school.path).values()) == {"quarantined" if last else "pending"}
    (reason,) = {row.quarantined for row in await school.store.corrections.find()}
    assert str(reason).startswith("rejected: It learned nothing")


async def test_a_failure_is_tried_again_after_a_while_and_then_works(school: School) -> None:
    write(school.path, "one", "two")
    school.trainer.failures = [
        TrainerFailed("the trainer was ended by SIGKILL"),
        TrainerFailed("the training took longer than timeout = 1 s"),
    ]
    run = await school.learn()
    for failures in (1, 2):
        assert (run.state, run.failures, run.attempt) == (RunState.PLANNED, failures, failures + 1)
        assert 0.5 * 15 * 2 ** (failures - 1) <= run.not_before - school.now <= 15 * 2 ** (failures - 1)
        assert ready_in(run, school.now) > 0 and ready_in(run, run.not_before) == 0
        assert set(where(school.path).values()) == {"claimed"}
        assert (await school.plan()).runs == []
        run = await school.conduct()
    assert run.state is RunState.PROMOTED and not school.staged()
    assert len({job.out for job in school.trainer.jobs}) == 3, "each attempt has a place of its own"


@pytest.mark.parametrize(
    "failure",
    [
        OSError(28, "No space left on device", "/layers"),
        TrainerFailed("base model no/where cannot be loaded", True, True),
        BaseModelUnusable("The base model at /base has no *.safetensors file."),
    ],
    ids=["disk", "base", "weights"],
)
async def test_corrections_wait_for_a_machine_to_be_mended_however_often_it_fails(
    school: School, failure: Exception
) -> None:
    write(school.path, "one", "two")
    school.trainer.failures = [failure] * 30
    run = await school.learn()
    for _ in range(29):
        assert (run.state, run.failures) == (RunState.PLANNED, 0)
        assert 0 < run.not_before - school.now <= 300, "soon enough for whoever mends it, and no hot loop"
        assert run.reason == ("/layers: No space left on device" if isinstance(failure, OSError) else str(failure))
        run = await school.conduct()
    assert (await school.conduct()).state is RunState.PROMOTED


async def test_what_the_base_cannot_read_is_set_aside_alone(school: School) -> None:
    write(school.path, "one", "two")
    school.trainer.unusable = {"one": "it is too long"}
    run = await school.learn()
    assert run.state is RunState.PROMOTED
    assert where(school.path) == {"one": "quarantined", "two": "used"}
    manifest = school.layers.verify(str(run.layer_path))
    assert manifest.learnt == ["two"]
    write(school.path, "three", "four")
    school.trainer.unusable = {"three": "it is too long", "four": "it is too long", "two": "it is too long"}
    assert (await school.learn()).state is RunState.CANCELLED
    assert where(school.path) == {"one": "quarantined", "two": "used", "three": "quarantined", "four": "quarantined"}


async def test_a_run_that_fails_too_often_ends_in_quarantine(school: School) -> None:
    write(school.path, "one", "two")
    school.trainer.failures = [TrainerFailed(f"attempt {number}") for number in range(1, 9)]
    run = await school.learn()
    while run.state.live:
        run = await school.conduct()
    assert (run.state, run.attempt, run.reason) == (RunState.FAILED, 5, "attempt 5")
    assert set(where(school.path).values()) == {"quarantined"}
    assert {row.quarantined for row in await school.store.corrections.find()} == {"failed: attempt 5"}
    assert (await school.plan()).runs == []


async def test_what_another_attempt_cannot_help_is_not_tried_again(school: School) -> None:
    write(school.path, "one", "two")
    school.trainer.failures = [TrainerFailed("the base model cannot be loaded", False)]
    run = await school.learn()
    assert (run.state, run.attempt) == (RunState.FAILED, 1)


async def test_a_base_model_that_lost_its_weights_is_a_failure_and_no_crash(school: School) -> None:
    write(school.path, "one", "two")
    await school.learn()
    write(school.path, "three", "four")
    await school.plan()
    weights = school.weights
    weights.rename(weights.with_suffix(".away"))
    run = await school.conduct()
    assert run.state is RunState.PLANNED and "has no *.safetensors file" in str(run.reason)
    weights.with_suffix(".away").rename(weights)
    assert (await school.conduct()).state is RunState.PROMOTED


def test_the_wait_between_attempts_doubles_is_bounded_and_jitters() -> None:
    for failures in (0, 1, 4, 20, 500):
        waits = {backoff(failures) for _ in range(50)}
        ceiling = min(15 * 2 ** min(failures, 20), 3_600)
        assert all(ceiling / 2 <= wait <= ceiling for wait in waits) and len(waits) > 40


async def test_runs_of_the_loaded_base_follow_each_other_but_not_for_ever(school: School) -> None:
    write(school.path, "one", "two")
    write(school.path, "three", "four", key=TraitKey("bob", "rust"))
    first, second = (await school.plan()).runs
    bases = {first.id: "small", second.id: "large"}

    def chosen(loaded: str, after: float) -> Run | None:
        return next_run([first, second], lambda run: bases[run.id], loaded, school.now + after)[0]

    assert chosen("", 0) == first and chosen("large", 0) == second
    assert chosen("large", 899) == second and chosen("large", 901) == first
    assert next_run([replace(first, not_before=school.now + 9)], lambda _: "", "", school.now) == (None, 9)


async def test_a_wait_that_a_clock_made_endless_is_over(school: School) -> None:
    write(school.path, "one", "two")
    school.trainer.failures = [TrainerFailed("once")]
    run = await school.learn()
    assert ready_in(run, school.now - 365 * 86_400) == 0


async def test_invariant_11_broken_rows_are_set_aside_and_the_rest_is_trained(school: School) -> None:
    write(school.path, "one", "two")
    write(school.path, "nothing", original_context=None, original_response=" ")
    insert = "INSERT INTO training_corrections VALUES ('bad', 'ada', 'rust', CAST(x'ff' AS TEXT), 'o', 'e')"
    columns = "id, persona_id, trait_type, original_context, original_response, expected_response"
    execute(school.path, insert.replace("VALUES", f"({columns}) VALUES"))
    with capture_logs() as logs:
        run = await school.learn()
    assert run.state is RunState.PROMOTED
    assert where(school.path) == {"one": "used", "two": "used", "nothing": "quarantined", "bad": "quarantined"}
    said = {tuple(log["ids"]): log["reason"] for log in logs if log["event"] == "corrections.quarantined"}
    assert said.keys() == {("nothing",), ("bad",)} and "UTF-8" in said[("bad",)]


async def test_a_batch_of_broken_rows_ends_the_run_and_holds_nothing_back(school: School) -> None:
    write(school.path, "bad", "worse", original_context=None, original_response="")
    run = await school.learn()
    assert (run.state, run.reason) == (RunState.CANCELLED, "nothing of the batch can be learnt from")
    assert set(where(school.path).values()) == {"quarantined"} and not school.trainer.jobs
    write(school.path, "good", received_at="2020-01-01")
    (again,) = (await school.plan()).runs
    assert again.planned_because == "the oldest waited 24 h"


async def test_a_broken_incumbent_is_not_compared_with(school: School) -> None:
    write(school.path, "one", "two")
    first = await school.learn()
    (school.layers.root / str(first.layer_path) / "adapter_config.json").write_text("{}")
    write(school.path, "three", "four")
    with capture_logs() as logs:
        run = await school.learn()
    assert run.state is RunState.PROMOTED and school.trainer.jobs[-1].incumbent is None
    assert any(log["event"] == "layer.broken" for log in logs)


async def test_invariant_10_a_layer_of_another_base_is_not_compared_with(school: School) -> None:
    write(school.path, "one", "two")
    await school.learn()
    school.weights.write_bytes(b"other weights")
    write(school.path, "three", "four")
    run = await school.learn()
    assert run.state is RunState.PROMOTED and school.trainer.jobs[-1].incumbent is None


async def test_invariant_4_no_row_names_a_layer_that_was_never_whole(school: School) -> None:
    write(school.path, "one", "two")

    async def spoil(_job: object) -> None:
        next(school.layers.root.glob(".staging/*/*/adapter_config.json")).unlink()

    school.trainer.meanwhile = spoil
    run = await school.learn()
    assert run.state is RunState.PLANNED and "lacks adapter_config.json" in str(run.reason)
    assert not school.published() and await speaks(school.store) == 0
    assert (await school.conduct()).state is RunState.PROMOTED


async def test_a_lost_run_is_left_alone(school: School) -> None:
    write(school.path, "one", "two")
    stale = await planned(school.store)
    fresh = await school.store.runs.take(stale)
    await school.conductor.conduct(stale)
    assert await school.run(stale.id) == fresh and not school.trainer.jobs
