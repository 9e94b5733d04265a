"""Pins: one version held until it is let go, and what they bring back of what rollbacks undid."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from daemon.domain import TraitKey
from daemon.errors import RequestRefused
from daemon.store.genomes import Pinned
from daemon.store.store import Store
from tests.integration.store_support import (
    ADA,
    NOW,
    a_store,
    evaluating,
    everything,
    execute,
    learnt,
    promoted,
    speaks,
    states,
    write,
)


@pytest.fixture
async def store(path: Path) -> AsyncIterator[Store]:
    """A trait of three versions."""
    async with a_store(path) as opened:
        for name in ("one", "two", "three"):
            await promoted(opened, path, name)
        yield opened


async def satisfied(store: Store, path: Path, name: str) -> None:
    """A correction that what speaks now answers already."""
    write(path, name)
    assert await store.genomes.satisfy(await evaluating(store), {}, "answered already", NOW) == 1


async def aside(store: Store) -> dict[str, str | None]:
    """What is quarantined, and why."""
    return {row.id: row.quarantined for row in await store.corrections.find(state="quarantined")}


async def test_a_pin_holds_one_version_until_it_is_unpinned(store: Store, path: Path) -> None:
    assert await store.genomes.pin(ADA, 1, "me", NOW) == Pinned(4, [])
    assert await speaks(store) == 1 and (await store.genomes.get("ada")).traits["rust"].pinned
    assert await states(store) == {1: "active", 2: "retired", 3: "retired"}
    with pytest.raises(RequestRefused, match=r"ada:rust is pinned; unpin it first: persona genome unpin ada rust"):
        await store.genomes.rollback(ADA, None, "me", NOW)
    assert await store.genomes.unpin(ADA, "me", NOW) == 5
    assert await speaks(store) == 1 and not (await store.genomes.get("ada")).traits["rust"].pinned
    fourth = (await promoted(store, path, "four")).layer
    assert fourth.parent_id == next(one.id for one in await store.genomes.layers(ADA) if one.version == 1)
    assert [event.kind for event in await store.genomes.history("ada", 3)] == ["promoted", "unpinned", "pinned"]
    assert await learnt(store) == ["one", "two", "three", "four"], "a pin undoes nothing that was learnt"


async def test_invariant_6_a_pin_takes_back_exactly_what_its_layer_and_its_ancestors_answer(
    store: Store, path: Path
) -> None:
    await satisfied(store, path, "by-three")
    await store.genomes.rollback(ADA, 2, "me", NOW)
    await satisfied(store, path, "by-two")
    await store.corrections.quarantine({"by-two": "looks odd"})
    assert sorted((await store.genomes.rollback(ADA, 0, "me", NOW)).quarantined) == ["one", "two"]
    write(path, "broken")
    await store.corrections.quarantine({"broken": "rolled back with v2, says somebody"})
    assert set(await aside(store)) == {"one", "two", "three", "by-two", "by-three", "broken"}
    done = await store.genomes.pin(ADA, 2, "me", NOW)
    assert (done.revision, sorted(done.released)) == (6, ["one", "two"])
    assert await speaks(store) == 2 and await learnt(store) == ["one", "two"]
    assert await aside(store) == {
        "three": "rolled back with v3", "by-three": "rolled back with v3", "by-two": "looks odd",
        "broken": "rolled back with v2, says somebody",
    }  # fmt: skip
    assert await states(store) == {1: "retired", 2: "active", 3: "rolled-back"}
    event = (await store.genomes.history("ada"))[0]
    assert (event.kind, event.version, event.revision, event.actor) == ("pinned", 2, 6, "me")
    assert event.reason == "took back 2 corrections that were rolled back"
    assert sorted((await store.genomes.pin(ADA, 3, "me", NOW)).released) == ["by-three", "three"]
    assert await states(store) == {1: "retired", 2: "retired", 3: "active"}


async def test_pinning_what_is_pinned_changes_nothing(store: Store, path: Path) -> None:
    await store.genomes.rollback(ADA, None, "me", NOW)
    assert await store.genomes.pin(ADA, 3, "me", NOW) == Pinned(5, ["three"])
    before = everything(path)
    assert await store.genomes.pin(ADA, 3, "you", NOW) == Pinned(5, [])
    assert everything(path) == before
    assert (await store.genomes.pin(ADA, 2, "me", NOW)).revision == 6, "another version is another pin"
    await store.genomes.unpin(ADA, "me", NOW)
    assert (await store.genomes.pin(ADA, 2, "me", NOW)).revision == 8, "it was unpinned meanwhile"


async def test_invariant_6_what_a_pin_brought_back_can_be_rolled_back_again(store: Store, path: Path) -> None:
    await store.genomes.rollback(ADA, 1, "me", NOW)
    await promoted(store, path, "four")
    assert sorted((await store.genomes.pin(ADA, 3, "me", NOW)).released) == ["three", "two"]
    assert await states(store) == {1: "retired", 2: "retired", 3: "active", 4: "retired"}
    await store.genomes.unpin(ADA, "me", NOW)
    done = await store.genomes.rollback(ADA, None, "me", NOW)
    assert done.layer and (done.layer.version, done.quarantined) == (2, ["three"]), "it comes from 2, not from 4"
    assert await states(store) == {1: "retired", 2: "active", 3: "rolled-back", 4: "retired"}
    assert await aside(store) == {"three": "rolled back with v3"}
    done = await store.genomes.rollback(ADA, 0, "me", NOW)
    assert sorted(done.quarantined) == ["one", "two"] and await learnt(store) == ["four"]


async def test_invariant_6_a_rollback_undoes_what_its_layer_answered_and_not_what_others_did(
    store: Store, path: Path
) -> None:
    await store.genomes.rollback(ADA, 2, "me", NOW)
    await satisfied(store, path, "by-two")
    await store.genomes.pin(ADA, 3, "me", NOW)
    await store.genomes.unpin(ADA, "me", NOW)
    await promoted(store, path, "theirs", key=TraitKey("ada", "cooking"))
    await satisfied(store, path, "by-three")
    done = await store.genomes.rollback(ADA, 2, "me", NOW)
    assert sorted(done.quarantined) == ["by-three", "three"]
    assert await learnt(store) == ["one", "two", "by-two"]


@pytest.mark.parametrize(
    "statement",
    ["UPDATE ON genome_layers", "UPDATE ON genome_traits", "UPDATE ON training_corrections", "UPDATE ON genomes",
     "INSERT ON genome_events"],
)  # fmt: skip
async def test_invariant_6_a_pin_killed_at_any_statement_never_happened(
    store: Store, path: Path, statement: str
) -> None:
    await store.genomes.rollback(ADA, 1, "me", NOW)
    execute(path, f"CREATE TRIGGER struck BEFORE {statement} BEGIN SELECT RAISE(ABORT, 'struck'); END")
    before = everything(path)
    with pytest.raises(IntegrityError, match="struck"):
        await store.genomes.pin(ADA, 3, "me", NOW)
    assert everything(path) == before


async def test_pins_that_cannot_be_are_refused(store: Store, path: Path) -> None:
    write(path, "flour", key=TraitKey("ada", "baking"))
    before = everything(path)
    with pytest.raises(RequestRefused, match=r"ada:rust has no version 7; see: persona genome show ada"):
        await store.genomes.pin(ADA, 7, "me", NOW)
    for key, sentence in {
        ADA: r"^ada:rust is not pinned\.$",
        TraitKey("ada", "baking"): r"^ada:baking is not pinned\.$",
        TraitKey("ada", "cooking"): r"^ada has no trait 'cooking'; see: persona genome show ada$",
        TraitKey("nobody", "rust"): r"^There is no persona 'nobody' in the store; see: persona status$",
    }.items():
        with pytest.raises(RequestRefused, match=sentence):
            await store.genomes.unpin(key, "me", NOW)
    with pytest.raises(RequestRefused, match="There is no persona 'nobody'"):
        await store.genomes.pin(TraitKey("nobody", "rust"), 1, "me", NOW)
    assert everything(path) == before
