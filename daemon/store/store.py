"""The store as the rest of the program sees it: one door to every statement."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from daemon.store.corrections import Corrections
from daemon.store.database import Database, OnBusy
from daemon.store.genomes import Genomes
from daemon.store.plans import Plans
from daemon.store.requests import Requests
from daemon.store.runs import Runs
from daemon.store.runtimes import Runtimes


@dataclass(frozen=True, slots=True)
class Store:
    """Everything that is known, each kind behind its own name."""

    database: Database
    corrections: Corrections
    plans: Plans
    runs: Runs
    genomes: Genomes
    runtimes: Runtimes
    requests: Requests

    async def changed(self) -> bool:
        """Whether somebody else wrote since the last call."""
        return await self.database.changed()


@asynccontextmanager
async def open_store(path: Path, *, create: bool = False, on_busy: OnBusy | None = None) -> AsyncIterator[Store]:
    """Open the store at `path`, made and migrated when `create` says so; raises StoreError."""
    database = await Database.open(path, create=create, on_busy=on_busy)
    try:
        yield Store(
            database,
            Corrections(database),
            Plans(database),
            Runs(database),
            Genomes(database),
            Runtimes(database),
            Requests(database),
        )
    finally:
        await database.close()
