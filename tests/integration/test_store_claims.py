"""Runs claim corrections, move on, and give them back: every arrow one transaction, fenced."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.domain import Run, RunState, TraitKey
from daemon.errors import ClaimLost
from daemon.store.store import Store, open_store
from tests.integration.store_support import (
    ADA,
    NOW,
    evaluating,
    everything,
    execute,
    layer_of,
    planned,
    promoted,
    promoting,
    where,
    write,
)

BOB = TraitKey("bob", "rust")


async def test_a_run_claims_everything_pending_of_its_trait_and_nothing_else(store: Store, path: Path) -> None:
    write(path, "one", "two")
    write(path, "kept", kind="affirmation")
    write(path, "other", key=BOB)
    write(path, "aside")
    await store.corrections.quarantine({"aside": "looks wrong"})
    run = await planned(store)
    assert where(path) == {
        "one": "claimed", "two": "claimed", "kept": "claimed", "other": "pending", "aside": "quarantined",
    }  # fmt: skip
    assert [row.id for row in await store.corrections.claimed_by(run.id)] == ["one", "two", "kept"]
    roles = dict(execute(path, "SELECT correction_id, role FROM run_corrections"))
    assert roles == {"one": "train", "two": "train", "kept": "affirm"}
    assert (run.state, run.version, run.attempt, run.planned_because) == (RunState.PLANNED, 1, 1, "a test asked")
    assert await store.runs.live() == [run]


async def test_affirmations_alone_are_no_batch(store: Store, path: Path) -> None:
    write(path, "kept", kind="affirmation")
    assert await store.plans.learn(ADA, "", "", NOW) is None
    assert where(path) == {"kept": "pending"}


async def test_invariant_3_while_a_run_lives_its_trait_gets_no_second_one(store: Store, path: Path) -> None:
    write(path, "one")
    await planned(store)
    write(path, "two")
    before = everything(path)
    assert await store.plans.learn(ADA, "", "", NOW) is None
    assert everything(path) == before
    assert where(path) == {"one": "claimed", "two": "pending"}


async def test_invariant_3_of_concurrent_planners_exactly_one_claims(store: Store, path: Path) -> None:
    write(path, *(f"row{number}" for number in range(20)))
    async with open_store(path) as other:
        plans = [each.plans.learn(ADA, "", "", NOW) for each in (store, other) * 3]
        runs = [run for run in await asyncio.gather(*plans) if run]
    assert len(runs) == 1
    assert execute(path, "SELECT run_id, count(*) FROM run_corrections GROUP BY run_id") == [(runs[0].id, 20)]


async def test_invariant_3_the_database_itself_refuses_a_second_claim(store: Store, path: Path) -> None:
    write(path, "one")
    write(path, "theirs", key=BOB)
    await planned(store)
    other = await planned(store, BOB)
    for outcome in ("claimed", "used"):
        with pytest.raises(sqlite3.IntegrityError, match="UNIQUE constraint failed"):
            execute(path, "INSERT INTO run_corrections VALUES (?, 'one', 'train', ?)", (other.id, outcome))
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        execute(path, "INSERT INTO run_corrections VALUES ('nobody', 'one', 'train', 'returned')")


async def test_taking_a_run_moves_the_fence_and_a_sleeper_cannot_outlive_it(store: Store, path: Path) -> None:
    write(path, "one")
    asleep = await planned(store)
    awake = await store.runs.take(asleep)
    assert (awake.state, awake.fence) == (RunState.TRAINING, asleep.fence + 1)
    stale = replace(awake, fence=asleep.fence)
    before = everything(path)
    late: list[Callable[[Run], Awaitable[object]]] = [
        lambda run: store.runs.take(asleep),
        lambda run: store.runs.evaluating(run, 0),
        lambda run: store.runs.reject(run, {}, "no", NOW),
        lambda run: store.runs.cancel(run, "no", NOW),
        lambda run: store.runs.retry(run, "no", NOW, failed=True),
        lambda run: store.runs.fail(run, "no", NOW),
    ]
    for move in late:
        with pytest.raises(ClaimLost, match=r"Run \w+ is no longer \w+ under fence 0"):
            await move(stale)
        assert everything(path) == before
    assert (await store.runs.evaluating(awake, 0)).state is RunState.EVALUATING


async def test_invariant_5_a_rejected_batch_goes_back(store: Store, path: Path) -> None:
    write(path, "one", "two")
    write(path, "kept", kind="affirmation")
    run = await evaluating(store)
    assert await store.runs.reject(run, {"reason": "worse"}, "It learned nothing.", NOW) == {}
    assert set(where(path).values()) == {"pending"}
    ended = await store.runs.last_ended(ADA)
    assert ended and (ended.state, ended.reason, ended.finished) == (RunState.REJECTED, "It learned nothing.", NOW)
    assert ended.evidence == {"reason": "worse"}
    write(path, "three")
    (backlog,) = await store.corrections.backlog()
    assert (backlog.pending, backlog.fresh, backlog.affirmations) == (3, 1, 1)


async def test_a_row_that_sat_in_three_rejected_runs_is_set_aside_alone(store: Store, path: Path) -> None:
    write(path, "old")
    write(path, "kept", kind="affirmation")
    for attempt in range(3):
        if attempt == 1:
            write(path, "newer")
        worn = await store.runs.reject(await evaluating(store), {}, "It forgot.", NOW)
        assert worn == ({"rejected: It forgot.": ["old"]} if attempt == 2 else {})
    assert where(path) == {"old": "quarantined", "kept": "pending", "newer": "pending"}
    assert execute(path, "SELECT quarantined_reason FROM training_corrections WHERE id = 'old'") == [
        ("rejected: It forgot.",)
    ]


async def test_a_retry_keeps_the_claim_and_counts_failures_only(store: Store, path: Path) -> None:
    write(path, "one")
    run = await store.runs.take(await planned(store))
    again = await store.runs.retry(run, "out of memory", NOW + 30, failed=True)
    assert (again.state, again.attempt, again.failures, again.not_before) == (RunState.PLANNED, 2, 1, NOW + 30)
    interrupted = await store.runs.retry(await store.runs.take(again), "interrupted", NOW, failed=False)
    assert (interrupted.attempt, interrupted.failures, interrupted.reason) == (3, 1, "interrupted")
    assert interrupted.fence == 2
    assert where(path) == {"one": "claimed"}


async def test_a_failed_run_sets_its_corrections_aside_but_no_affirmation(store: Store, path: Path) -> None:
    write(path, "one", "two")
    write(path, "kept", kind="affirmation")
    run = await store.runs.take(await planned(store))
    assert sorted(await store.runs.fail(run, "no base model", NOW)) == ["one", "two"]
    assert where(path) == {"one": "quarantined", "two": "quarantined", "kept": "pending"}
    reasons = await store.corrections.find(state="quarantined")
    assert {row.quarantined for row in reasons} == {"failed: no base model"}


async def test_a_cancelled_run_gives_back_and_whoever_still_works_on_it_has_lost_it(store: Store, path: Path) -> None:
    write(path, "one")
    run = await evaluating(store)
    await store.runs.cancel(run, "an admin said so", NOW)
    assert where(path) == {"one": "pending"}
    before = everything(path)
    with pytest.raises(ClaimLost):
        await store.runs.promoting(run, "path", {})
    with pytest.raises(ClaimLost):
        await store.genomes.satisfy(run, {}, "fine", NOW)
    assert everything(path) == before


async def test_invariant_1_rows_set_aside_leave_the_run_and_the_rest_stays(store: Store, path: Path) -> None:
    write(path, "good", "bad")
    run = await store.runs.take(await planned(store))
    await store.runs.set_aside(run, {"bad": "it is broken"})
    assert where(path) == {"good": "claimed", "bad": "quarantined"}
    assert await store.corrections.release(["bad", "good", "unheard-of"]) == 1
    assert where(path) == {"good": "claimed", "bad": "pending"}


async def test_invariant_2_a_satisfied_batch_is_used_without_a_layer(store: Store, path: Path) -> None:
    write(path, "one", "two")
    run = await evaluating(store)
    assert await store.genomes.satisfy(run, {}, "It knows already.", NOW) == 2
    assert where(path) == {"one": "used", "two": "used"}
    assert (await store.genomes.get("ada")).revision == 0
    assert await store.genomes.layers(ADA) == []


async def test_a_version_number_is_never_issued_twice(store: Store, path: Path) -> None:
    write(path, "one")
    assert (await planned(store)).version == 1
    await store.runs.cancel((await store.runs.live())[0], "", NOW)
    run = await evaluating(store)
    assert run.version == 2
    await store.runs.reject(run, {}, "", NOW)
    made = await promoted(store, path, "two")
    assert made.layer.version == 3
    await store.genomes.rollback(ADA, None, "me", NOW)
    write(path, "three")
    last = await promoting(store)
    assert last.version == 4
    assert (await store.genomes.promote(last, layer_of(last), "", NOW)).layer.version == 4
    write(path, "theirs", key=BOB)
    assert (await planned(store, BOB)).version == 1


async def test_runs_are_found_by_the_beginning_of_their_id(store: Store, path: Path) -> None:
    write(path, "one")
    run = await planned(store)
    assert await store.runs.get(run.id[:6]) == run
    assert await store.runs.get("%") is None
    assert await store.runs.latest(persona="ada", trait="rust") == [run]
    assert await store.runs.latest(persona="bob") == []
