"""What happens while a run is trained: pins, rollbacks, other traits, admins, stops and crashes."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from daemon.domain import Run, RunState, TraitKey
from daemon.genome.directories import LayerDirectories, content_hash_of
from daemon.learning import candidate
from daemon.learning.attempt import trained
from daemon.learning.planner import Ask
from daemon.training.engine.job import Job
from tests.integration.learning_support import School, a_school, cancelled
from tests.integration.store_support import ADA, promoted, speaks, where, write

COOKING = TraitKey("ada", "cooking")


@pytest.fixture
async def school(tmp_path: Path) -> AsyncIterator[School]:
    """A trait with two layers, and a batch for a third."""
    async with a_school(tmp_path) as opened:
        await opened.learn_two_layers()
        opened.trainer.jobs.clear()
        write(opened.path, "five", "six")
        yield opened


def batch(school: School) -> set[str]:
    """What became of the batch."""
    return {state for name, state in where(school.path).items() if name in ("five", "six")}


async def training(school: School) -> tuple[Run, "asyncio.Task[None]"]:
    """A run in the middle of its training, for ever, and the task that conducts it."""
    reached = asyncio.Event()

    async def never_ends(_job: Job) -> None:
        reached.set()
        await asyncio.Event().wait()

    school.trainer.meanwhile = never_ends
    (planned,) = (await school.plan()).runs
    task = asyncio.create_task(school.conductor.conduct(planned))
    await reached.wait()
    return await school.run(planned.id), task


async def test_a_trait_that_is_pinned_meanwhile_is_not_promoted_over_and_not_tried_for_ever(school: School) -> None:
    async def pin(_job: Job) -> None:
        assert (await school.ask("pin", persona="ada", trait="rust", version=1))[0] == "done"

    school.trainer.meanwhile = pin
    run = await school.learn()
    assert (run.state, run.attempt) == (RunState.PLANNED, 2) and "moved from revision" in str(run.reason)
    run = await school.conduct()
    assert (run.state, run.reason) == (RunState.CANCELLED, "the trait was pinned")
    assert len(school.trainer.jobs) == 1 and batch(school) == {"pending"}
    made = await school.plan(asks=(Ask("me"),))
    assert made.runs == [] and made.judgements[0].due.why == "pinned to version 1; persona genome unpin ada rust"
    assert await speaks(school.store) == 1 and not school.staged()
    # Nobody judged the batch: once unpinned, it is due like any other.
    assert (await school.ask("unpin", persona="ada", trait="rust"))[0] == "done"
    school.moment += 60
    assert len((await school.plan()).runs) == 1


async def test_another_trait_that_moves_meanwhile_costs_no_second_training(school: School) -> None:
    async def promote_another(_job: Job) -> None:
        await promoted(school.store, school.path, "salt", key=COOKING)

    school.trainer.meanwhile = promote_another
    run = await school.learn()
    assert (run.state, run.attempt, len(school.trainer.jobs)) == (RunState.PROMOTED, 1, 1)
    assert (await school.store.genomes.get("ada")).revision == 4
    assert await speaks(school.store) == 3 and await speaks(school.store, COOKING) == 1


async def test_a_trait_that_is_rolled_back_meanwhile_is_trained_again_from_what_speaks_now(school: School) -> None:
    async def roll_back(_job: Job) -> None:
        assert (await school.ask("rollback", persona="ada", trait="rust"))[0] == "done"

    school.trainer.meanwhile = roll_back
    run = await school.learn()
    assert (run.state, run.attempt) == (RunState.PLANNED, 2)
    run = await school.conduct()
    assert run.state is RunState.PROMOTED
    manifest = school.layers.verify(str(run.layer_path))
    assert manifest.rehearsed == ["one", "two"], "what was undone is rehearsed by nobody"
    third = (await school.store.genomes.layers(ADA))[0]
    first = (await school.store.genomes.layers(ADA))[2]
    assert (third.version, third.parent_id, first.version) == (3, first.id, 1)


async def test_invariant_10_a_base_that_changes_meanwhile_gets_a_layer_of_its_own(school: School) -> None:
    base = school.config.defaults.base_model

    async def changes(_job: Job) -> None:
        (Path(base) / "model.safetensors").write_bytes(b"other weights")

    (run,) = (await school.plan()).runs
    school.trainer.meanwhile = changes
    published = len(school.published())
    run = await school.conduct()
    assert (run.state, run.attempt, run.failures) == (RunState.PLANNED, 2, 0)
    assert run.reason and run.reason.startswith("The base model of ada:rust was changed")
    assert await speaks(school.store) == 2
    assert (await school.conduct()).state is RunState.PROMOTED
    assert await speaks(school.store) == 3 and len(school.published()) == published + 1


async def test_a_satisfied_batch_is_asked_again_when_the_answering_layer_is_rolled_back(school: School) -> None:
    async def roll_back(_job: Job) -> None:
        await school.ask("rollback", persona="ada", trait="rust")

    school.trainer.meanwhile, school.trainer.outcome = roll_back, "satisfied"
    assert (await school.learn()).state is RunState.PLANNED
    assert batch(school) == {"claimed"}
    assert (await school.conduct()).state is RunState.SATISFIED


async def test_invariant_12_a_stop_in_the_middle_leaves_nothing_half_done(school: School) -> None:
    run, task = await training(school)
    assert run.state is RunState.TRAINING and school.staged()
    await cancelled(task)
    assert task.cancelled() and school.trainer.closed == 3
    again = await school.run(run.id)
    assert (again.state, again.attempt, again.failures) == (RunState.PLANNED, 2, 0)
    assert not school.staged() and batch(school) == {"claimed"}
    assert (await school.conduct()).state is RunState.PROMOTED


async def test_invariant_12_a_stop_at_any_moment_leaves_nothing_half_done(school: School) -> None:
    (run,) = (await school.plan()).runs
    moment = 0
    while run.state is not RunState.PROMOTED:
        moment += 1 + moment // 6
        task = asyncio.create_task(school.conductor.conduct(run))
        for _ in range(moment):
            await asyncio.sleep(0.0005)
            if task.done():
                break
        await cancelled(task)
        run = await school.run(run.id)
        if run.state is RunState.PROMOTED:
            continue
        assert not school.staged() and batch(school) == {"claimed"} and await speaks(school.store) == 2
        if run.state in (RunState.TRAINING, RunState.EVALUATING):
            # The stop fell into a transaction; the next start takes it over.
            run = await school.store.runs.retry(run, "interrupted", school.now, failed=False)
        assert run.state in (RunState.PLANNED, RunState.PROMOTING)
    assert batch(school) == {"used"} and await speaks(school.store) == 3 and not school.staged()


async def test_a_run_that_an_admin_cancels_in_the_middle_gives_its_rows_back(school: School) -> None:
    run, task = await training(school)

    def abort(run_id: str) -> None:
        assert run_id == run.id and task.cancel()

    school.admin.abort = abort
    state, result = await school.ask("cancel", run=run.id[:8])
    await asyncio.wait([task])
    assert (state, result) == ("done", {"run": run.id, "pending": 2, "quarantined": 0})
    ended = await school.run(run.id)
    assert (ended.state, ended.reason) == (RunState.CANCELLED, "cancelled by me")
    assert batch(school) == {"pending"} and not school.staged() and await speaks(school.store) == 2
    assert (await school.plan()).runs == [], "what an admin stopped does not begin again by itself"
    assert len((await school.plan(asks=(Ask("me", "ada"),))).runs) == 1


async def test_a_run_that_was_cancelled_behind_its_back_ends_when_it_notices(school: School) -> None:
    async def cancel(_job: Job) -> None:
        (run,) = await school.store.runs.live()
        await school.store.runs.cancel(run, "cancelled", school.now)

    school.trainer.meanwhile = cancel
    await school.plan()
    (run,) = await school.store.runs.live()
    await school.conductor.conduct(run)
    assert (await school.run(run.id)).state is RunState.CANCELLED
    assert batch(school) == {"pending"} and not school.staged() and school.published() == ["v0001", "v0002"]


async def crashed_before_promotion(school: School) -> Run:
    """A run as a crash leaves it between the layer's directory and the transaction that names it."""
    (run,) = (await school.plan()).runs
    run = await school.store.runs.take(run)
    log = school.conductor._log
    attempt = await school.conductor._attempts.prepare(run, log)
    assert attempt is not None
    finished, fingerprint = await trained(school.trainer, attempt.job, lambda _: None, log)
    run = await school.store.runs.evaluating(run, attempt.compared)
    manifest = candidate.manifest(run, attempt.job, attempt.incumbent, fingerprint, finished, attempt.data)
    published = school.layers.publish(Path(attempt.job.out), manifest)
    assert content_hash_of(school.layers.verify(published.path).files) == published.content_hash
    return await school.store.runs.promoting(run, published.path, {"reason": "It is better."})


async def test_invariant_4_a_crash_between_publishing_and_promoting_is_finished_by_the_next_start(
    school: School,
) -> None:
    run = await crashed_before_promotion(school)
    await school.conductor.conduct(await school.run(run.id))
    ended = await school.run(run.id)
    assert (ended.state, ended.reason, ended.attempt) == (RunState.PROMOTED, "It is better.", 1)
    assert await speaks(school.store) == 3 and batch(school) == {"used"} and len(school.trainer.jobs) == 1


async def test_invariant_4_a_layer_that_did_not_survive_the_crash_is_trained_again(school: School) -> None:
    run = await crashed_before_promotion(school)
    (school.layers.root / str(run.layer_path) / "adapter_model.safetensors").write_bytes(b"torn")
    await school.conductor.conduct(run)
    again = await school.run(run.id)
    assert (again.state, again.attempt, again.layer_path) == (RunState.PLANNED, 2, None)
    assert await speaks(school.store) == 2 and batch(school) == {"claimed"}
    assert school.published() == ["v0001", "v0002"], "what no row names any more is gone"
    assert (await school.conduct()).state is RunState.PROMOTED


async def test_a_run_that_is_cancelled_before_its_promotion_takes_its_layer_along(school: School) -> None:
    run = await crashed_before_promotion(school)
    assert school.published() == ["v0001", "v0002", "v0003"]
    assert (await school.ask("cancel", run=run.id))[0] == "done"
    assert school.published() == ["v0001", "v0002"] and batch(school) == {"pending"}


async def test_invariant_5_what_an_attempt_published_goes_with_its_run_whatever_becomes_of_it(school: School) -> None:
    await school.plan()
    publish = school.layers.publish

    def crash(*arguments: Any) -> Any:
        publish(*arguments)
        raise OSError("the power went")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LayerDirectories, "publish", lambda _self, *arguments: crash(*arguments))
        patch.setattr(candidate, "retract", lambda *_: asyncio.sleep(0))
        await school.conduct()
    assert school.published() == ["v0001", "v0002", "v0003"], "nobody has come to promote it"
    school.now += 3_600
    school.trainer.outcome = "worse"
    assert (await school.conduct()).state is RunState.REJECTED
    assert school.published() == ["v0001", "v0002"], "the gate did not let it pass, so nobody may ask for it"


async def test_a_rollback_after_the_crash_sends_the_run_back_to_training(school: School) -> None:
    run = await crashed_before_promotion(school)
    await school.ask("rollback", persona="ada", trait="rust", to=0)
    await school.conductor.conduct(await school.run(run.id))
    assert (await school.run(run.id)).state is RunState.PLANNED and await speaks(school.store) == 0
    assert (await school.conduct()).state is RunState.PROMOTED
    assert school.trainer.jobs[-1].incumbent is None and len(school.trainer.jobs[-1].examples) == 2
