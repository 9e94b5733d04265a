"""What later corrections of one context replace, and what becomes of it when the later ones cannot be learnt."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from daemon.domain import RunState, TraitKey
from daemon.training.engine.job import Group, Job
from tests.integration.learning_support import School, a_school
from tests.integration.store_support import promoted, speaks, where, write

LONG = "it is too long"


@pytest.fixture
async def school(tmp_path: Path) -> AsyncIterator[School]:
    async with a_school(tmp_path) as opened:
        yield opened


def asked(school: School) -> dict[str, Group]:
    """What the last job asked for."""
    return {example.id: example.group for example in school.trainer.jobs[-1].examples}


def say(school: School, question: str, *names: str, **columns: Any) -> None:
    write(school.path, *names, original_context=question, **columns)


async def learnt_and_corrected_again(school: School) -> None:
    """A layer has learnt a1 and b1; a2, of a1's context, and c1 are pending."""
    say(school, "A?", "a1")
    say(school, "B?", "b1")
    await school.learn()
    say(school, "A?", "a2")
    say(school, "C?", "c1")


async def test_a_batch_row_comes_back_when_what_replaced_it_cannot_be_read(school: School) -> None:
    say(school, "A?", "old", "new")
    school.trainer.unusable = {"new": LONG}
    with capture_logs() as logs:
        run = await school.learn()
    assert (run.state, run.attempt, run.failures) == (RunState.PLANNED, 2, 0)
    assert run.not_before <= school.now, "nobody is at fault, so nobody waits"
    assert where(school.path) == {"old": "claimed", "new": "quarantined"}
    assert not school.staged() and not school.published()
    assert [log["event"] for log in logs][-2:] == ["corrections.quarantined", "run.outdated"]
    run = await school.conduct()
    assert run.state is RunState.PROMOTED and asked(school) == {"old": Group.BATCH}
    assert where(school.path) == {"old": "used", "new": "quarantined"}
    manifest = school.layers.verify(str(run.layer_path))
    assert (manifest.learnt, manifest.superseded) == (["old"], [])


async def test_a_learnt_row_comes_back_when_what_replaced_it_cannot_be_read(school: School) -> None:
    await learnt_and_corrected_again(school)
    school.trainer.unusable = {"a2": LONG}
    assert (await school.learn()).state is RunState.PLANNED
    assert (await school.conduct()).state is RunState.PROMOTED
    assert asked(school) == {"a1": Group.HISTORY, "b1": Group.HISTORY, "c1": Group.BATCH}


async def test_every_row_of_a_context_may_be_too_long_in_turn(school: School) -> None:
    say(school, "A?", "a1", "a2", "a3")
    school.trainer.unusable = {"a3": LONG, "a2": LONG, "a1": LONG}
    run = await school.learn()
    for attempt in (2, 3):
        assert (run.state, run.attempt) == (RunState.PLANNED, attempt)
        run = await school.conduct()
    assert (run.state, run.reason) == (RunState.CANCELLED, "nothing of the batch can be learnt from")
    assert set(where(school.path).values()) == {"quarantined"}


async def test_a_learnt_row_that_cannot_be_read_is_in_the_way_of_a_batch_only_once(school: School) -> None:
    say(school, "A?", "late", received_at="2026-02-01")
    say(school, "B?", "b1")
    await school.learn()
    # Written later, but it arrived before: somebody copied it from another store.
    say(school, "A?", "early", received_at="2026-01-01")
    say(school, "C?", "c1")
    school.trainer.unusable = {"late": LONG}
    run = await school.learn()
    assert (run.state, run.failures) == (RunState.PLANNED, 0)
    run = await school.conduct()
    assert run.state is RunState.PROMOTED
    assert asked(school) == {"b1": Group.HISTORY, "early": Group.BATCH, "c1": Group.BATCH}
    assert where(school.path)["late"] == "used", "another base may read it"


async def test_a_learnt_row_that_cannot_be_read_brings_no_older_one_back_and_costs_nothing(school: School) -> None:
    await learnt_and_corrected_again(school)
    await school.learn()
    school.trainer.unusable = {"a2": LONG}
    say(school, "D?", "d1", "d2")
    run = await school.learn()
    assert (run.state, run.attempt) == (RunState.PROMOTED, 1)
    assert asked(school).keys() == {"a2", "b1", "c1", "d2"}
    manifest = school.layers.verify(str(run.layer_path))
    assert (manifest.rehearsed, manifest.superseded) == (["b1", "c1"], ["a1", "d1"])


async def test_a_run_says_what_it_replaced(school: School) -> None:
    say(school, "A?", "a1")
    say(school, "B?", "b1")
    await school.learn()
    say(school, "A?", "a2", "a3")
    run = await school.learn()
    assert run.state is RunState.PROMOTED
    assert (run.evidence["superseded"], run.evidence["replaced"]) == (1, 1)
    manifest = school.layers.verify(str(run.layer_path))
    assert (manifest.learnt, manifest.rehearsed, manifest.superseded) == (["a3"], ["b1"], ["a1", "a2"])


async def test_affirmations_alone_satisfy_nothing_when_every_correction_is_set_aside(school: School) -> None:
    say(school, "A?", "a1")
    say(school, "B?", "b1")
    say(school, "C?", "kept", kind="affirmation")
    school.trainer.outcome, school.trainer.unusable = "satisfied", {"a1": LONG, "b1": LONG}
    run = await school.learn()
    assert (run.state, run.reason) == (RunState.CANCELLED, "nothing of the batch can be learnt from")
    assert where(school.path) == {"a1": "quarantined", "b1": "quarantined", "kept": "pending"}


async def test_affirmations_alone_are_not_trained_where_the_corrections_are_broken(school: School) -> None:
    write(school.path, "bad", "worse", original_context=None, original_response="")
    say(school, "C?", "kept", kind="affirmation")
    assert (await school.learn()).state is RunState.CANCELLED
    assert not school.trainer.jobs and where(school.path)["kept"] == "pending"


async def test_another_trait_that_moves_costs_no_second_training_where_the_incumbent_is_broken(school: School) -> None:
    write(school.path, "one", "two")
    first = await school.learn()
    (school.layers.root / str(first.layer_path) / "adapter_config.json").write_text("{}")
    write(school.path, "three", "four")

    async def promote_another(_job: Job) -> None:
        await promoted(school.store, school.path, "salt", key=TraitKey("ada", "cooking"))

    school.trainer.meanwhile = promote_another
    run = await school.learn()
    assert (run.state, run.attempt, await speaks(school.store)) == (RunState.PROMOTED, 1, 2)
    assert school.trainer.jobs[-1].incumbent is None
    layers = {layer.version: layer for layer in await school.store.genomes.layers(first.key)}
    assert school.layers.verify(str(run.layer_path)).parent == layers[2].parent_id == layers[1].id
