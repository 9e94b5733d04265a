"""A real store in a file, rows as any writer would put them there, and runs moved along by hand."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from daemon.domain import Layer, Run, TraitKey
from daemon.store.genomes import Promoted
from daemon.store.store import Store, open_store

ADA = TraitKey("ada", "rust")
NOW = 1_800_000_000.0


@asynccontextmanager
async def a_store(path: Path) -> AsyncIterator[Store]:
    """A new store; afterwards, no connection may be left checked out but the writer's."""
    _copy(path)
    async with open_store(path) as store:
        yield store
        await store.changed()  # a cancelled write costs the writer its connection: it has one again now
        assert store.database.checked_out == 1


def _copy(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_template())


@cache
def _template() -> bytes:
    """An empty store, migrated once per process of the tests, to be copied."""

    async def migrated(path: Path) -> None:
        async with open_store(path, create=True):
            pass

    with TemporaryDirectory() as folder, ThreadPoolExecutor() as thread:
        path = Path(folder) / "persona.db"
        thread.submit(asyncio.run, migrated(path)).result()
        return path.read_bytes()


def execute(path: Path, sql: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
    """One statement from another program's connection, committed."""
    with closing(sqlite3.connect(path, timeout=60)) as connection, connection:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        return connection.execute(sql, tuple(values)).fetchall()


def write(path: Path, *names: str, key: TraitKey = ADA, **columns: Any) -> list[str]:
    """A correction per name, which is its id; `columns` say what is special about them."""
    for name in names:
        row = {
            "id": name,
            "persona_id": key.persona,
            "trait_type": key.trait,
            "original_context": f"What is {name}?",
            "original_response": "I do not know.",
            "expected_response": f"It is {name.upper()}.",
            **columns,
        }
        marks = ", ".join("?" * len(row))
        execute(path, f"INSERT INTO training_corrections ({', '.join(row)}) VALUES ({marks})", row.values())
    return list(names)


def everything(path: Path) -> list[str]:
    """Every row of every table: equal before and after means that nothing changed at all."""
    with closing(sqlite3.connect(path)) as connection:
        return [line for line in connection.iterdump() if line.startswith("INSERT")]


def where(path: Path) -> dict[str, str]:
    """What each correction is now: pending, claimed, used, quarantined, or several at once, which must not be."""
    rows = execute(
        path,
        """SELECT c.id, is_used_in_training, quarantined_reason IS NOT NULL,
             (SELECT count(*) FROM run_corrections rc WHERE rc.correction_id = c.id AND rc.outcome = 'claimed')
           FROM training_corrections c ORDER BY c.rowid""",
    )
    words = {(0, 0, 0): "pending", (0, 0, 1): "claimed", (1, 0, 0): "used", (0, 1, 0): "quarantined"}
    return {name: words.get(tuple(flags), f"wrong {flags}") for name, *flags in rows}


async def planned(store: Store, key: TraitKey = ADA) -> Run:
    """A run that holds what the trait has pending."""
    run = await store.plans.learn(key, "a test asked", "settings", NOW)
    assert run is not None
    return run


async def evaluating(store: Store, key: TraitKey = ADA) -> Run:
    """A run whose candidate the gate looks at."""
    taken = await store.runs.take(await planned(store, key))
    return await store.runs.evaluating(taken, (await store.genomes.get(key.persona)).revision)


async def promoting(store: Store, key: TraitKey = ADA) -> Run:
    """A run that the gate passed."""
    return await store.runs.promoting(await evaluating(store, key), "a/layer/directory", {"reason": "better"})


def layer_of(run: Run) -> Layer:
    """The layer that a run would be promoted with."""
    path = f"{run.key.persona}/{run.key.trait}/v{run.version}"
    return Layer("", run.key, run.version, "active", path, "hash", "base", None, run.id)


async def promoted(store: Store, path: Path, *names: str, key: TraitKey = ADA) -> Promoted:
    """A layer that learnt the named corrections, and speaks."""
    write(path, *names, key=key)
    run = await promoting(store, key)
    return await store.genomes.promote(run, layer_of(run), "better", NOW)


async def speaks(store: Store, key: TraitKey = ADA) -> int:
    """The version that a trait speaks with; 0 is the base model."""
    layer = (await store.genomes.get(key.persona)).layer(key.trait)
    return layer.version if layer else 0


async def learnt(store: Store, key: TraitKey = ADA) -> list[str]:
    """What a trait learnt and may rehearse."""
    return [correction.id for correction in await store.corrections.learnt(key)]


async def states(store: Store, key: TraitKey = ADA) -> dict[int, str]:
    """The state of every version of a trait."""
    return {layer.version: layer.state for layer in await store.genomes.layers(key)}
