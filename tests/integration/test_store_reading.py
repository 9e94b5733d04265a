"""What the store reads back: backlogs at the cost of what is pending, times in any form, text that is no text."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from daemon.domain import TraitKey
from daemon.learning.dataset import defect
from daemon.store.plans import NAMELESS, TAKEN
from daemon.store.store import Store
from tests.integration.store_support import ADA, NOW, evaluating, execute, planned, promoted, where, write

COOKING = TraitKey("ada", "cooking")
INSERT = (
    "INSERT INTO training_corrections (id, persona_id, trait_type, original_context, original_response,"
    " expected_response) VALUES ({}, 'ada', 'rust', {}, 'o', 'e')"
)


async def test_what_is_pending_costs_what_is_pending(store: Store, path: Path) -> None:
    asked: list[tuple[str, Any]] = []

    def listen(_connection: Any, _cursor: Any, sql: str, values: Any, *_others: Any) -> None:
        asked.append((sql, values))

    event.listen(store.database._engine.sync_engine, "before_cursor_execute", listen)
    await store.corrections.backlog()
    await store.corrections.learnt(ADA)
    backlog, learnt = (
        [detail for *_, detail in execute(path, f"EXPLAIN QUERY PLAN {sql}", values)]
        for sql, values in asked
        if sql.startswith("SELECT")
    )
    assert backlog[0] == "SCAN training_corrections USING INDEX training_corrections_pending"
    assert not any(line.startswith("SCAN") for line in backlog[1:])
    assert learnt[0] == (
        "SEARCH training_corrections USING INDEX training_corrections_learnt (persona_id=? AND trait_type=?)"
    )


async def test_a_backlog_says_how_much_how_severe_and_since_when(store: Store, path: Path) -> None:
    write(path, "old", severity=0.25, received_at="2026-11-22T04:00:00Z")
    write(path, "new", severity=1, received_at="2026-11-23T04:00:00Z")
    write(path, "kept", kind="affirmation", severity=1, received_at="2020-01-01")
    write(path, "only-kept", kind="affirmation", key=COOKING)
    cooking, rust = await store.corrections.backlog()
    assert (rust.key, rust.pending, rust.severity, rust.affirmations) == (ADA, 2, 1.25, 1)
    assert rust.oldest == pytest.approx(1795320000.0)
    assert (cooking.pending, cooking.severity, cooking.oldest, cooking.affirmations) == (0, 0.0, 0.0, 1)


@pytest.mark.parametrize(
    "written",
    [
        "2026-11-23T04:00:00Z",
        "2026-11-23 04:00",
        "2026-11-23T04:00:00.000+00:00",
        "2026-11-23T06:00:00+02:00",
        "2461367.6666666665",
    ],
)
async def test_every_form_of_a_time_that_was_let_in_is_read(store: Store, path: Path, written: str) -> None:
    write(path, "one", received_at=written)
    (backlog,) = await store.corrections.backlog()
    assert backlog.oldest == pytest.approx(1795406400.0, abs=0.01)
    (row,) = await store.corrections.find()
    assert row.received == pytest.approx(1795406400.0, abs=0.01)


async def test_rows_come_in_the_order_of_their_times_not_of_the_texts(store: Store, path: Path) -> None:
    write(path, "third", received_at="2026-11-23 05:00")
    write(path, "first", received_at="2026-11-23T03:00:00Z")
    write(path, "second", received_at="2461367.6666666665")
    run = await planned(store)
    assert [row.id for row in await store.corrections.claimed_by(run.id)] == ["first", "second", "third"]


async def test_fresh_is_what_no_ended_run_has_sent_back(store: Store, path: Path) -> None:
    write(path, "one", "two")
    await store.runs.reject(await evaluating(store), {}, "", NOW)
    write(path, "three")
    assert [one.fresh for one in await store.corrections.backlog()] == [1]
    await store.runs.cancel(await evaluating(store), "", NOW)
    assert [(one.pending, one.fresh) for one in await store.corrections.backlog()] == [(3, 0)]


async def test_invariant_11_text_that_is_no_utf8_is_read_and_only_that_row_is_broken(store: Store, path: Path) -> None:
    execute(path, INSERT.format("'bad'", "CAST(x'63ff64' AS TEXT)"))
    execute(path, INSERT.format("'good'", "'c'"))
    await planned(store)
    rows = {row.id: row for row in await store.corrections.find()}
    assert rows["bad"].context == "c\udcffd"
    assert "original_context is not valid UTF-8" in str(defect(rows["bad"]))
    assert defect(rows["good"]) is None


async def test_invariant_11_a_row_whose_very_id_is_no_utf8_is_set_aside(store: Store, path: Path) -> None:
    execute(path, INSERT.format("CAST(x'ff41' AS TEXT)", "'c'"))
    assert await store.plans.learn(ADA, "", "", NOW) is None
    execute(path, INSERT.format("'good'", "'c'"))
    write(path, "anchor-1", "c1~said0", "c1~0", "anchors")
    assert await store.plans.refuse_misnamed(ADA) == {NAMELESS: ["\\udcffA"], TAKEN: ["anchor-1", "c1~said0", "c1~0"]}
    assert await store.plans.refuse_misnamed(ADA) == {}
    await planned(store)
    assert list(where(path).values()) == ["quarantined", "claimed", *["quarantined"] * 3, "claimed"]
    assert execute(path, "SELECT quarantined_reason FROM training_corrections WHERE id NOT LIKE '%~%' LIMIT 1") == [
        ("id is not valid UTF-8; insert it again without one",)
    ]


async def test_a_tally_tells_where_every_row_is(store: Store, path: Path) -> None:
    await promoted(store, path, "used-1", "used-2")
    await promoted(store, path, "undone")
    await store.genomes.rollback(ADA, None, "me", NOW)
    write(path, "claimed", "aside")
    await store.corrections.quarantine({"aside": "odd"})
    await planned(store)
    write(path, "pending", "waiting", "there")
    (tally,) = await store.corrections.tally()
    assert (tally.pending, tally.claimed, tally.used, tally.quarantined) == (3, 1, 2, 2)
    for state, names in {
        "pending": {"pending", "waiting", "there"}, "used": {"used-1", "used-2"}, "quarantined": {"undone", "aside"},
    }.items():  # fmt: skip
        assert {row.id for row in await store.corrections.find("ada", "rust", state)} == names


async def test_one_row_is_found_by_the_unambiguous_beginning_of_its_id(store: Store, path: Path) -> None:
    write(path, "abc", "abd", "ab")
    assert [row and row.id for row in [await store.corrections.get(name) for name in ("abc", "ab", "a", "%", "x")]] == [
        "abc", "ab", None, None, None,
    ]  # fmt: skip
    assert await store.corrections.personas() == {"ada"}


async def test_rows_are_inserted_all_or_none(store: Store, path: Path) -> None:
    row = {"id": "x", "persona_id": "ada", "trait_type": "rust", "original_response": "o", "expected_response": "e"}
    with pytest.raises(Exception, match="persona_id: 1 to 128"):
        await store.corrections.insert([row, {**row, "id": "y", "persona_id": "../x"}])
    assert await store.corrections.backlog() == []
    await store.corrections.insert([row, {**row, "id": "y"}])
    assert [one.pending for one in await store.corrections.backlog()] == [2]
