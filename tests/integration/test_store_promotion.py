"""Promotion is one transaction: all of it happens, or nothing at all."""

from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from daemon.domain import Run, RunState, TraitKey
from daemon.errors import ClaimLost, GenomeMoved, PersonaError
from daemon.store.store import Store
from tests.integration.store_support import (
    ADA,
    NOW,
    evaluating,
    everything,
    execute,
    layer_of,
    promoted,
    promoting,
    speaks,
    where,
    write,
)

STATEMENTS = [
    "UPDATE ON training_runs",
    "INSERT ON genome_layers",
    "UPDATE ON genome_layers",
    "UPDATE ON genome_traits",
    "UPDATE ON run_corrections",
    "UPDATE ON training_corrections",
    "UPDATE ON genomes",
    "INSERT ON genome_events",
]
FIRST = ["INSERT ON genomes", "INSERT ON genome_traits"]


async def test_invariant_2_exactly_the_claimed_rows_become_used(store: Store, path: Path) -> None:
    write(path, "one", "two", "broken")
    write(path, "kept", kind="affirmation")
    run = await promoting(store)
    await store.runs.set_aside(run, {"broken": "no text"})
    write(path, "late")
    made = await store.genomes.promote(run, layer_of(run), "It knows them.", NOW)
    assert where(path) == {
        "one": "used", "two": "used", "broken": "quarantined", "kept": "used", "late": "pending",
    }  # fmt: skip
    assert (made.corrections, made.revision, made.layer.version, made.layer.created) == (3, 1, 1, NOW)
    ended = await store.runs.last_ended(ADA)
    assert ended and (ended.state, ended.reason) == (RunState.PROMOTED, "It knows them.")
    genome = await store.genomes.get("ada")
    assert genome.revision == 1 and genome.layer("rust") == made.layer
    (event,) = await store.genomes.history("ada")
    assert (event.kind, event.version, event.revision, event.actor) == ("promoted", 1, 1, "daemon")


async def test_a_second_layer_retires_the_first_and_is_its_child(store: Store, path: Path) -> None:
    first = (await promoted(store, path, "one")).layer
    second = (await promoted(store, path, "two")).layer
    assert [(layer.version, layer.state) for layer in await store.genomes.layers(ADA)] == [
        (2, "active"),
        (1, "retired"),
    ]
    assert second.parent_id == first.id


@pytest.mark.parametrize("statement", [*STATEMENTS, *FIRST])
async def test_invariant_2_a_promotion_killed_at_any_statement_never_happened(
    store: Store, path: Path, statement: str
) -> None:
    if statement not in FIRST:
        await promoted(store, path, "before")
    write(path, "one", "two")
    run = await promoting(store)
    execute(path, f"CREATE TRIGGER struck BEFORE {statement} BEGIN SELECT RAISE(ABORT, 'struck'); END")
    before = everything(path)
    with pytest.raises(IntegrityError, match="struck"):
        await store.genomes.promote(run, layer_of(run), "", NOW)
    assert everything(path) == before
    execute(path, "DROP TRIGGER struck")
    made = await store.genomes.promote(run, layer_of(run), "", NOW)
    assert await speaks(store) == made.layer.version == run.version
    assert where(path)["one"] == where(path)["two"] == "used"


@pytest.mark.parametrize("statement", ["UPDATE ON training_runs", "UPDATE ON training_corrections"])
async def test_invariant_2_a_satisfied_run_killed_at_any_statement_never_happened(
    store: Store, path: Path, statement: str
) -> None:
    write(path, "one")
    run = await evaluating(store)
    execute(path, f"CREATE TRIGGER struck BEFORE {statement} BEGIN SELECT RAISE(ABORT, 'struck'); END")
    before = everything(path)
    with pytest.raises(IntegrityError, match="struck"):
        await store.genomes.satisfy(run, {}, "", NOW)
    assert everything(path) == before


async def refused(store: Store, path: Path, run: Run, error: type[PersonaError]) -> None:
    """A promotion is refused, and leaves every byte of every table as it was."""
    before = everything(path)
    with pytest.raises(error):
        await store.genomes.promote(run, layer_of(run), "", NOW)
    assert everything(path) == before


async def test_a_promotion_under_a_wrong_fence_or_state_changes_nothing(store: Store, path: Path) -> None:
    write(path, "one")
    looked = await evaluating(store)
    await refused(store, path, looked, ClaimLost)
    run = await store.runs.promoting(looked, "a/layer", {})
    await refused(store, path, replace(run, fence=run.fence - 1), ClaimLost)
    await refused(store, path, replace(run, fence=run.fence + 1), ClaimLost)
    await store.genomes.promote(run, layer_of(run), "", NOW)
    await refused(store, path, run, ClaimLost)


async def test_a_genome_that_moved_is_gated_again(store: Store, path: Path) -> None:
    write(path, "one")
    run = await promoting(store)
    await promoted(store, path, "cooking", key=TraitKey("ada", "cooking"))
    await refused(store, path, run, GenomeMoved)
    run = await store.runs.rebase(run, 1)
    made = await store.genomes.promote(run, layer_of(run), "", NOW)
    assert made.revision == 2
    assert set((await store.genomes.get("ada")).traits) == {"rust", "cooking"}


async def test_the_genome_of_another_persona_moves_alone(store: Store, path: Path) -> None:
    write(path, "one")
    run = await promoting(store)
    await promoted(store, path, "theirs", key=TraitKey("bob", "rust"))
    assert (await store.genomes.promote(run, layer_of(run), "", NOW)).revision == 1


async def test_a_pinned_trait_is_not_promoted_over(store: Store, path: Path) -> None:
    await promoted(store, path, "one")
    write(path, "two")
    run = await promoting(store)
    revision = (await store.genomes.pin(ADA, 1, "me", NOW)).revision
    await refused(store, path, run, GenomeMoved)
    await refused(store, path, replace(run, compared=revision), GenomeMoved)


async def test_a_satisfied_run_is_looked_at_again_when_the_genome_moved(store: Store, path: Path) -> None:
    await promoted(store, path, "one")
    write(path, "two")
    run = await evaluating(store)
    await store.genomes.rollback(ADA, None, "me", NOW)
    before = everything(path)
    with pytest.raises(GenomeMoved):
        await store.genomes.satisfy(run, {}, "", NOW)
    assert everything(path) == before


async def test_invariant_2_a_run_that_holds_nothing_uses_nothing(store: Store, path: Path) -> None:
    write(path, "one")
    run = await promoting(store)
    await store.runs.set_aside(run, {"one": "broken"})
    await refused(store, path, run, ClaimLost)
