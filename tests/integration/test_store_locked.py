"""Other programs that hold the store: who waits for them and how long, who does not, and what is said in the end."""

import asyncio
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from daemon.domain import RuntimeState
from daemon.errors import StoreBusy, StoreError
from daemon.store import database
from daemon.store.database import bring_up_to_date
from daemon.store.failures import as_sentences
from daemon.store.store import Store, open_store
from scripts.processes import PATIENCE_S
from tests.integration.store_support import ADA, NOW, a_store, everything, execute, promoted, write


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a minute of waiting in a moment."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 10)
    monkeypatch.setattr(database, "PATIENCE_S", 0.3)


@contextmanager
def holding(path: Path, *first: str) -> Iterator[sqlite3.Connection]:
    """Another program in the middle of a write."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=60)) as foreign:
        for statement in first:
            foreign.execute(statement)
        foreign.execute("BEGIN IMMEDIATE")
        foreign.execute("INSERT INTO admin_requests (kind) VALUES ('train')")
        yield foreign
        if foreign.in_transaction:
            foreign.execute("ROLLBACK")


async def record(store: Store) -> None:
    """Any write."""
    await store.runtimes.record(RuntimeState("main", "ada", 1, None, "converging", None))


async def test_the_daemon_waits_without_end_and_says_how_long(path: Path, impatient: None) -> None:
    waited: list[float] = []
    told = asyncio.Event()

    def tell(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            told.set()

    async with a_store(path):
        pass
    async with open_store(path, on_busy=tell) as store:
        with holding(path) as foreign:
            task = asyncio.create_task(record(store))
            await asyncio.wait_for(told.wait(), PATIENCE_S)
            foreign.execute("COMMIT")
        await asyncio.wait_for(task, PATIENCE_S)
    assert 0.2 < waited[0] < waited[1]
    assert len(execute(path, "SELECT 1 FROM runtime_states")) == 1


async def test_a_write_waits_for_a_foreign_writer_beyond_the_busy_timeout(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 20)
    async with a_store(path) as store:
        with holding(path) as foreign:
            task = asyncio.create_task(record(store))
            await asyncio.sleep(0.3)
            assert not task.done(), "fifteen times the busy timeout"
            assert await store.corrections.backlog() == [], "readers wait for nobody"
            foreign.execute("COMMIT")
        await asyncio.wait_for(task, PATIENCE_S)
    assert len(execute(path, "SELECT 1 FROM runtime_states")) == 1


@pytest.mark.usefixtures("impatient")
async def test_a_write_gives_up_on_a_foreign_writer_that_never_ends_with_a_sentence(store: Store, path: Path) -> None:
    sentence = rf"^The store {path} is busy: another program holds a transaction on it; try again when it has ended\.$"
    with holding(path):
        for _ in range(2):
            with pytest.raises(StoreBusy, match=sentence):
                await record(store)
    await record(store)


@pytest.mark.usefixtures("impatient")
async def test_a_foreign_program_that_lets_nobody_read_is_a_sentence_too(store: Store, path: Path) -> None:
    everywhere: list[Callable[[], Awaitable[object]]] = [
        store.corrections.backlog, store.changed, lambda: record(store), store.database.require_writable,
    ]  # fmt: skip
    await store.database.close()
    with holding(path, "PRAGMA locking_mode = EXCLUSIVE"):
        for each in everywhere:
            with pytest.raises(StoreBusy, match="is busy"):
                await each()
        for create in (False, True):
            with pytest.raises(StoreBusy, match="is busy"):
                async with open_store(path, create=create):
                    pass
    for each in everywhere:
        await each()


@pytest.mark.usefixtures("impatient")
async def test_a_reader_waits_for_no_writer_from_opening_to_closing(store: Store, path: Path) -> None:
    await promoted(store, path, "one")
    write(path, "two")
    run = await store.plans.learn(ADA, "", "", NOW)
    assert run
    request = await store.requests.ask("train", {}, "me")
    with holding(path):
        for create in (False, True):
            async with open_store(path, create=create) as reader:
                assert await reader.corrections.backlog() == []
                assert len(await reader.corrections.find()) == len(await reader.corrections.whole()) == 2
                assert [one.claimed for one in await reader.corrections.tally()] == [1]
                assert await reader.runs.live() == await reader.runs.latest(1) == [run]
                assert (await reader.genomes.get("ada")).revision == len(await reader.genomes.history("ada")) == 1
                assert len(await reader.genomes.all()) == len(await reader.genomes.layers(ADA)) == 1
                assert await reader.runtimes.all() == []
                assert await reader.requests.get(request) and len(await reader.requests.asked()) == 1
                assert reader.database.checked_out == 0, "who only reads has no connection to write on"
                assert await reader.changed()


async def test_that_a_store_can_be_written_is_tried_without_writing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 10)
    monkeypatch.setattr(database, "PATIENCE_S", 86_400.0)
    async with a_store(path) as store, open_store(path) as other:
        before = everything(path)
        await store.changed()
        await other.database.require_writable()
        assert everything(path) == before and not await store.changed()
        with holding(path), pytest.raises(StoreBusy):
            # Whoever looks does not wait as a write does, which here would be for a day.
            await asyncio.wait_for(other.database.require_writable(), PATIENCE_S)
        await other.database.require_writable()
        with holding(path) as foreign:
            foreign.execute("DROP TABLE alembic_version")
            foreign.execute("COMMIT")
        with pytest.raises(StoreError, match=r"cannot be used \(no such table.*\); see that no other program"):
            await other.database.require_writable()


async def test_a_row_that_the_store_refuses_is_told_apart_from_a_broken_store(store: Store, path: Path) -> None:
    with pytest.raises(StoreError, match=r"^expected_response is text and not blank\.$"), as_sentences(path):
        row = {"id": "x", "persona_id": "ada", "trait_type": "rust", "original_response": "o", "expected_response": " "}
        await store.corrections.insert([row])


@pytest.mark.parametrize(
    ("script", "error", "sentence"),
    [
        ("echo The store is busy.; exit 75", StoreBusy, r"^The store is busy\.$"),
        ("echo It is newer.; exit 1", StoreError, r"^It is newer\.$"),
        ("echo 'Traceback:\n  ValueError: no' >&2; exit 1", StoreError, r"not be migrated \(ValueError: no\); it"),
        ("kill -9 $$", StoreError, r"^The store .*persona\.db could not be migrated \(exit code -9\); it is as it was"),
    ],
    ids=["busy", "sentence", "traceback", "killed"],
)  # fmt: skip
async def test_what_keeps_a_store_from_being_migrated_is_said(
    path: Path, monkeypatch: pytest.MonkeyPatch, script: str, error: type[StoreError], sentence: str
) -> None:
    program = path.parent.parent / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(StoreError, match=sentence) as raised:
        await bring_up_to_date(path)
    assert type(raised.value) is error


async def test_a_store_is_migrated_in_a_process_of_its_own_and_refused_in_its_words(path: Path) -> None:
    await bring_up_to_date(path)
    async with open_store(path) as store:
        assert await store.corrections.backlog() == []
    execute(path, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match=rf"^The store {path} is of version 9999, newer than this program"):
        await bring_up_to_date(path)
