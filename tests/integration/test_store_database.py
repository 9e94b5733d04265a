"""The file itself: what wakes us, who waits for whom, and what a failure or a cancellation leaves behind."""

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from daemon.domain import RuntimeState
from daemon.store import database
from daemon.store.database import bring_up_to_date
from daemon.store.schema import is_current
from daemon.store.store import Store, open_store
from scripts.processes import PATIENCE_S
from tests.integration.store_support import ADA, NOW, a_store, everything, execute, write


async def record(store: Store, runtime: str) -> None:
    """Two rows in one transaction, slowly."""
    async with store.database.write() as connection:
        for persona in ("ada", "bob"):
            await connection.execute(
                text("INSERT INTO runtime_states VALUES (:runtime, :persona, 1, NULL, 'x', NULL)"),
                {"runtime": runtime, "persona": persona},
            )
            await asyncio.sleep(0)


async def shell(path: Path, sql: str) -> None:
    """The sqlite3 command."""
    process = await asyncio.create_subprocess_exec("sqlite3", "-cmd", ".timeout 60000", str(path), sql)
    assert await process.wait() == 0


async def test_own_writes_wake_nobody_and_foreign_ones_do(store: Store, path: Path) -> None:
    assert await store.changed(), "whatever came before us is news"
    assert not await store.changed()
    await store.runtimes.record(RuntimeState("main", "ada", 1, None, "converging", None))
    await store.corrections.backlog()
    assert not await store.changed()
    await shell(path, "INSERT INTO admin_requests (kind) VALUES ('train')")
    assert await store.changed()
    assert not await store.changed()
    await shell(path, "SELECT count(*) FROM training_corrections; PRAGMA wal_checkpoint(PASSIVE)")
    assert not await store.changed()
    write(path, "one")
    await store.plans.learn(ADA, "", "", NOW)
    assert await store.changed(), "a foreign write is seen although one of ours came after it"


async def test_a_foreign_write_is_seen_although_the_writer_lost_its_connection(store: Store, path: Path) -> None:
    await store.changed()
    for number in range(5):
        write(path, f"row{number}")
        task = asyncio.create_task(record(store, f"main{number}"))
        for _ in range(number):
            await asyncio.sleep(0.0005)
        task.cancel()
        await asyncio.wait([task])
        assert await store.changed()


async def test_an_error_undoes_the_whole_transaction(store: Store, path: Path) -> None:
    before = everything(path)
    with pytest.raises(IntegrityError):
        async with store.database.write() as connection:
            await connection.execute(text("INSERT INTO genomes VALUES ('ada', 1)"))
            await connection.execute(text("INSERT INTO genomes VALUES ('ada', 2)"))
    assert everything(path) == before
    await record(store, "main")
    assert len(everything(path)) == len(before) + 2


async def test_invariant_12_a_write_cancelled_anywhere_happened_or_did_not(store: Store, path: Path) -> None:
    for number in range(60):
        task = asyncio.create_task(record(store, f"main{number}"))
        for _ in range(number):
            await asyncio.sleep(0 if number % 2 else 0.0002)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.exception() is None
    await asyncio.wait_for(record(store, "after"), PATIENCE_S)
    rows = dict(execute(path, "SELECT runtime, count(*) FROM runtime_states GROUP BY runtime"))
    assert set(rows.values()) == {2} and "after" in rows


async def test_a_write_cancelled_while_it_waits_leaves_no_lock_behind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 200)
    async with a_store(path) as store:
        with closing(sqlite3.connect(path, isolation_level=None)) as foreign:
            foreign.execute("BEGIN IMMEDIATE")
            task = asyncio.create_task(record(store, "main"))
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.wait([task])
            foreign.execute("COMMIT")
        with closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as foreign:
            foreign.execute("BEGIN IMMEDIATE")
            foreign.execute("ROLLBACK")
        await asyncio.wait_for(record(store, "after"), PATIENCE_S)


async def test_invariant_12_who_handles_a_cancellation_can_write_at_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 10)
    monkeypatch.setattr(database, "PATIENCE_S", 3.0)
    entered, leave = threading.Event(), threading.Event()

    def linger() -> int:
        """Called by a statement, in its thread: it lasts until it may end."""
        entered.set()
        return int(leave.wait(PATIENCE_S))

    async with a_store(path) as store:

        async def work() -> None:
            try:
                async with store.database.write() as connection:
                    raw: Any = (await connection.get_raw_connection()).driver_connection
                    await raw.create_function("linger", 0, linger)
                    await connection.execute(text("INSERT INTO genomes VALUES ('ada', 1)"))
                    await connection.execute(text("SELECT linger()"))
            except asyncio.CancelledError:
                # The traceback still knows the cursor of the statement that was cancelled.
                await record(store, "handled")
                raise

        for _ in range(3):
            entered.clear()
            leave.clear()
            task = asyncio.create_task(work())
            assert await asyncio.to_thread(entered.wait, PATIENCE_S)
            task.cancel()
            leave.set()
            await asyncio.wait([task])
            assert task.cancelled(), task.exception()
            assert execute(path, "SELECT DISTINCT runtime FROM runtime_states") == [("handled",)]
            execute(path, "DELETE FROM runtime_states")


async def test_the_file_is_opened_as_the_design_says(store: Store) -> None:
    for connect in (store.database.read, store.database.write):
        async with connect() as connection:
            found = [
                (await connection.execute(text(f"PRAGMA {name}"))).scalar()
                for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            ]
        assert found == ["wal", 2, 1, 5000]


async def test_a_reader_sees_one_moment(store: Store, path: Path) -> None:
    async with store.database.read() as connection:
        count = text("SELECT count(*) FROM training_corrections")
        assert (await connection.execute(count)).scalar() == 0
        write(path, "one")
        await record(store, "main")
        assert (await connection.execute(count)).scalar() == 0
    async with open_store(path) as other:
        assert [backlog.pending for backlog in await other.corrections.backlog()] == [1]


async def test_a_folder_of_our_name_where_the_daemon_starts_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "daemon"
    other.mkdir()
    (other / "__init__.py").write_text("raise SystemExit('another daemon')")
    monkeypatch.chdir(tmp_path)
    await bring_up_to_date(tmp_path / "persona.db")
    assert is_current(tmp_path / "persona.db", 1.0)
