"""The way back: rollbacks, pins, and what happens to the corrections that a rollback undoes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from daemon.domain import TraitKey
from daemon.errors import RequestRefused
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
    where,
    write,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "persona.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[Store]:
    """A trait of three versions."""
    async with a_store(path) as opened:
        for name in ("one", "two", "three"):
            await promoted(opened, path, name)
        yield opened


async def test_invariant_6_one_command_leads_one_version_back(store: Store, path: Path) -> None:
    done = await store.genomes.rollback(ADA, None, "me", NOW)
    assert ([layer.version for layer in done.undone], done.revision, done.quarantined) == ([3], 4, ["three"])
    assert done.layer and done.layer.version == await speaks(store) == 2
    assert await states(store) == {1: "retired", 2: "active", 3: "rolled-back"}
    event = (await store.genomes.history("ada"))[0]
    assert (event.kind, event.version, event.actor, event.reason) == ("rolled-back", 2, "me", "undid v3")


async def test_invariant_6_what_is_undone_is_set_aside_and_no_longer_learnt(store: Store, path: Path) -> None:
    await store.genomes.rollback(ADA, 1, "me", NOW)
    assert await learnt(store) == ["one"]
    rows = {row.id: row for row in await store.corrections.find()}
    assert rows["two"].quarantined == "rolled back with v2" and rows["two"].used
    assert rows["three"].quarantined == "rolled back with v3" and rows["three"].used
    assert await store.corrections.backlog() == []
    assert await store.corrections.release(["two"]) == 1
    assert await learnt(store) == ["one", "two"]


async def test_invariant_6_back_to_the_base_undoes_everything(store: Store, path: Path) -> None:
    done = await store.genomes.rollback(ADA, 0, "me", NOW)
    assert [layer.version for layer in done.undone] == [3, 2, 1]
    assert await speaks(store) == 0 and await learnt(store) == []
    assert set((await states(store)).values()) == {"rolled-back"}
    with pytest.raises(RequestRefused, match="speaks with the base model; there is nothing to roll back"):
        await store.genomes.rollback(ADA, None, "me", NOW)


async def test_invariant_6_a_layer_after_a_rollback_comes_from_what_spoke_then(store: Store, path: Path) -> None:
    await store.genomes.rollback(ADA, 1, "me", NOW)
    fourth = (await promoted(store, path, "four")).layer
    assert fourth.version == 4
    for version in (3, 2):
        way = rf"to version {version}: what speaks now descends .*: persona genome pin ada rust {version}$"
        with pytest.raises(RequestRefused, match=way):
            await store.genomes.rollback(ADA, version, "me", NOW)
    done = await store.genomes.rollback(ADA, None, "me", NOW)
    assert await speaks(store) == 1 and done.quarantined == ["four"]
    assert await learnt(store) == ["one"]


@pytest.mark.parametrize(
    ("key", "to", "sentence"),
    [
        (ADA, 3, r"ada:rust speaks with version 3 already\."),
        (ADA, 9, r"ada:rust has no version 9; see: persona genome show ada"),
        (TraitKey("ada", "baking"), None, r"ada:baking speaks with the base model; there is nothing to roll back\.$"),
        (TraitKey("ada", "baking"), 1, r"ada:baking has no version 1; see: persona genome show ada"),
        (TraitKey("ada", "cooking"), None, r"ada has no trait 'cooking'; see: persona genome show ada"),
        (TraitKey("bob", "rust"), None, r"bob has no trait 'rust'; see: persona genome show bob"),
        (TraitKey("nobody", "rust"), 1, r"There is no persona 'nobody' in the store; see: persona status"),
    ],
)
async def test_a_rollback_that_leads_nowhere_is_refused_with_a_sentence(
    store: Store, path: Path, key: TraitKey, to: int | None, sentence: str
) -> None:
    write(path, "flour", key=TraitKey("ada", "baking"))
    write(path, "theirs", key=TraitKey("bob", "baking"))
    before = everything(path)
    with pytest.raises(RequestRefused, match=sentence):
        await store.genomes.rollback(key, to, "me", NOW)
    assert everything(path) == before


async def test_from_the_base_model_no_rollback_leads_on_but_a_pin(store: Store, path: Path) -> None:
    await store.genomes.rollback(ADA, 0, "me", NOW)
    before = everything(path)
    pin = "persona genome pin ada rust"
    for to, sentence in {
        2: rf"ada:rust speaks with the base model; to speak with version 2 again: {pin} 2$",
        9: r"ada:rust has no version 9; see: persona genome show ada$",
        0: rf"ada:rust speaks with the base model; there is nothing to roll back\. .*: {pin} VERSION$",
        None: rf"ada:rust speaks with the base model; there is nothing to roll back\. .*: {pin} VERSION$",
    }.items():
        with pytest.raises(RequestRefused, match=sentence):
            await store.genomes.rollback(ADA, to, "me", NOW)
    assert everything(path) == before


@pytest.mark.parametrize(
    "statement",
    ["UPDATE ON genome_layers", "UPDATE ON genome_traits", "UPDATE ON training_corrections", "UPDATE ON genomes",
     "INSERT ON genome_events"],
)  # fmt: skip
async def test_invariant_6_a_rollback_killed_at_any_statement_never_happened(
    store: Store, path: Path, statement: str
) -> None:
    execute(path, f"CREATE TRIGGER struck BEFORE {statement} BEGIN SELECT RAISE(ABORT, 'struck'); END")
    before = everything(path)
    with pytest.raises(IntegrityError, match="struck"):
        await store.genomes.rollback(ADA, 1, "me", NOW)
    assert everything(path) == before


async def test_invariant_1_every_row_is_somewhere_for_ever(store: Store, path: Path) -> None:
    await store.genomes.rollback(ADA, 2, "me", NOW)
    tally = {one.key: one for one in await store.corrections.tally()}[ADA]
    assert (tally.pending, tally.claimed, tally.used, tally.quarantined) == (0, 0, 2, 1)
    assert where(path)["three"] == "wrong [1, 1, 0]", "used and quarantined: only a rollback leads there"
    assert execute(path, "SELECT count(*) FROM training_corrections") == [(3,)]


async def test_invariant_6_what_the_undone_layer_answered_already_is_undone_with_it(store: Store, path: Path) -> None:
    write(path, "again")
    run = await evaluating(store)
    assert await store.genomes.satisfy(run, {}, "answered already", NOW) == 1
    done = await store.genomes.rollback(ADA, None, "me", NOW)
    assert sorted(done.quarantined) == ["again", "three"]
    assert await learnt(store) == ["one", "two"]


async def ids_of(store: Store, **versions: int) -> dict[str, str]:
    """The ids of layers by a name that the test gives to their versions."""
    by_version = {layer.version: layer.id for layer in await store.genomes.layers(ADA)}
    return {name: by_version[version] for name, version in versions.items()}


async def test_invariant_6_what_was_released_and_rehearsed_goes_with_the_layer_that_rehearsed_it(
    store: Store, path: Path
) -> None:
    await store.genomes.rollback(ADA, 1, "me", NOW)
    await store.corrections.release(["three"])
    await promoted(store, path, "four")
    fourth = (await ids_of(store, four=4))["four"]
    done = await store.genomes.rollback(ADA, None, "me", NOW, {fourth: ["four", "three", "one"]})
    assert sorted(done.quarantined) == ["four", "three"], "what version 1 learnt stays with it"
    rows = {row.id: row.quarantined for row in await store.corrections.find()}
    assert (rows["three"], rows["four"]) == ("rolled back with v4", "rolled back with v4")
    assert await learnt(store) == ["one"]
    # Whatever version it went with, it comes back with each that taught it.
    assert sorted((await store.genomes.pin(ADA, 4, "me", NOW)).released) == ["four", "three"]


async def test_invariant_6_what_the_layer_that_speaks_then_rehearsed_stays_learnt(store: Store, path: Path) -> None:
    await store.genomes.rollback(ADA, 1, "me", NOW)
    await store.corrections.release(["three"])
    await promoted(store, path, "four")
    await promoted(store, path, "five")
    known = await ids_of(store, four=4, five=5)
    taught = {known["four"]: ["four", "three", "one"], known["five"]: ["five", "four", "three", "one"]}
    assert (await store.genomes.rollback(ADA, None, "me", NOW, taught)).quarantined == ["five"]
    assert await learnt(store) == ["one", "three", "four"]
    assert sorted((await store.genomes.rollback(ADA, 1, "me", NOW, taught)).quarantined) == ["four", "three"]


async def test_invariant_6_no_rollback_takes_what_the_base_answers_itself(store: Store, path: Path) -> None:
    await store.genomes.rollback(ADA, 0, "me", NOW)
    write(path, "known")
    assert await store.genomes.satisfy(await evaluating(store), {}, "answered already", NOW) == 1
    await promoted(store, path, "four")
    fifth = (await ids_of(store, last=5))["last"]
    done = await store.genomes.rollback(ADA, 0, "me", NOW, {fifth: ["four", "known"]})
    assert done.quarantined == ["four"] and await learnt(store) == ["known"]
