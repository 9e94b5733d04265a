"""The SQLite file behind the store: how it is opened, read, written and watched."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from sqlite3 import Error as SqliteError
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DatabaseError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from daemon import children
from daemon.errors import StoreBusy, StoreError
from daemon.store.failures import broken_as_sentences, busy
from daemon.store.schema import is_current, migrate, require_current

BUSY_TIMEOUT_MS = 5_000
PATIENCE_S = 60.0
"""How long a write waits for foreign writers before it gives up with StoreBusy."""
OnBusy = Callable[[float], None]
"""Told now and then for how many seconds a write has waited; where there is one, writes wait without end."""


class Database:
    """One SQLite store: many short readers, and one long-lived connection for everything that we write."""

    def __init__(self, path: Path, on_busy: OnBusy | None = None) -> None:
        self._path = path
        self._on_busy = on_busy
        self._engine = _engine(path)
        self._writer: AsyncConnection | None = None
        self._writing = asyncio.Lock()
        self._seen: tuple[Any, int] | None = None

    @classmethod
    async def open(cls, path: Path, *, create: bool, on_busy: OnBusy | None = None) -> "Database":
        """Open a store; `create` makes and migrates it, else it must be there and current; raises StoreError."""
        _require_place(path, create=create)
        database = cls(path, on_busy)
        try:
            # Whoever only reads takes no lock, and waits for nobody who writes.
            if create and not await asyncio.to_thread(is_current, path, BUSY_TIMEOUT_MS / 1000):
                async with database.write() as connection:
                    await connection.run_sync(migrate)
            async with database.read() as connection:
                await connection.run_sync(require_current)
        except BaseException:
            await database.close()
            raise
        return database

    async def close(self) -> None:
        """Give every connection back."""
        if self._writer:
            await self._writer.close()
        await self._engine.dispose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A consistent view of the store; raises StoreBusy while another program lets nobody read."""
        with broken_as_sentences(self._path):
            async with self._engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def write(self, patience: float | None = None) -> AsyncIterator[AsyncConnection]:
        """One transaction, begun IMMEDIATE, so that what it reads is what it changes; an error rolls it back."""
        async with self._writing:
            with broken_as_sentences(self._path):
                writer = await self._begun(PATIENCE_S if patience is None else patience, time.monotonic())
                try:
                    yield writer
                    await writer.commit()
                except BaseException:
                    await writer.rollback()
                    raise

    async def require_writable(self) -> None:
        """See that a write could be made now, without making one or waiting long; raises StoreBusy or StoreError."""
        async with self.write(patience=0) as connection:
            # SQLite begins a write on a file that it may only read, too; the first statement tells.
            await connection.exec_driver_sql("DELETE FROM alembic_version WHERE false")

    async def changed(self) -> bool:
        """Whether another connection has committed since the last call; our own writes do not count."""
        async with self._writing:
            with broken_as_sentences(self._path):
                raw = await (await self._connected()).get_raw_connection()
                connection: Any = raw.driver_connection
                async with connection.execute("PRAGMA data_version") as cursor:
                    (version,) = await cursor.fetchone()
        # The number counts for one connection only, and a cancelled write costs the writer its connection.
        changed = self._seen is None or self._seen[0] is not connection or self._seen[1] != version
        self._seen = connection, version
        return changed

    async def _connected(self) -> AsyncConnection:
        """The writer's connection, made when it is first needed: most commands only read."""
        if self._writer is None:
            self._writer = await (await self._engine.connect()).execution_options(immediate=True)
        return self._writer

    async def _begun(self, patience: float, since: float) -> AsyncConnection:
        """The writer's connection in a new transaction."""
        while True:
            try:
                async for attempt in AsyncRetrying(
                    retry=retry_if_exception(busy),
                    stop=stop_after_delay(patience),
                    wait=wait_random_exponential(multiplier=0.05, max=1.0),
                    reraise=True,
                ):
                    with attempt:
                        writer = await self._connected()
                        await writer.begin()
                return writer
            except DatabaseError as error:
                if not self._on_busy or not busy(error):
                    raise
                self._on_busy(time.monotonic() - since)

    @property
    def checked_out(self) -> int:
        """Connections in use: when nobody reads, 1, the writer's, once something was written."""
        count: int = self._engine.pool.checkedout()  # type: ignore[attr-defined]
        return count


def _engine(path: Path) -> AsyncEngine:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}", pool_size=2, max_overflow=4, hide_parameters=True)
    event.listen(engine.sync_engine, "connect", _prepare)
    event.listen(engine.sync_engine, "begin", _begin)
    event.listen(engine.sync_engine, "invalidate", _undo)
    return engine


def _prepare(connection: Any, _record: object) -> None:
    # The driver must not begin transactions of its own: we say when, and how.
    connection.isolation_level = None
    # Text that is no UTF-8 (written by an old or careless program) is read as it is and judged row by row.
    connection.driver_connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    cursor = connection.cursor()
    # A file that is in WAL mode already stays so without a lock.
    for pragma in (
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _undo(connection: Any, _record: object, _error: object) -> None:
    # A cancelled statement costs the connection. Closing alone would leave its transaction, and the lock, for as long
    # as any traceback remembers one of its cursors: the very handlers of the cancellation could not write.
    with suppress(DatabaseError, SqliteError, ValueError):
        connection.rollback()


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("immediate", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _require_place(path: Path, *, create: bool) -> None:
    try:
        if create:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif not path.is_file():
            raise StoreError(f"There is no store at {path}; run `persona init`, or start the daemon, to create it.")
    except OSError as error:
        what, do = ("made", "make it") if create else ("entered", "see to who owns it")
        raise StoreError(
            f"The store's directory {path.parent} cannot be {what} ({error.strerror}); {do}, or set store.url."
        ) from error
    if not create:
        return
    # SQLite would make the file for its owner to write alone; whom the umask lets, may. What is wrong shows on opening.
    with suppress(OSError):
        path.touch(0o666, exist_ok=False)


async def bring_up_to_date(path: Path) -> None:
    """Create or migrate a store in a process of its own, whose memory goes with it; raises StoreError."""
    _require_place(path, create=True)
    if await asyncio.to_thread(is_current, path, BUSY_TIMEOUT_MS / 1000):
        return
    pipe = asyncio.subprocess.PIPE
    command, environment = children.module("daemon.store", path)
    # Ctrl-C on a terminal is meant for us: a migration that has begun is finished, in a session of its own.
    process = await asyncio.create_subprocess_exec(
        *command, stdout=pipe, stderr=pipe, env=environment, start_new_session=True
    )
    sentence, trouble = (said.decode(errors="replace").strip() for said in await process.communicate())
    if process.returncode:
        kind = StoreBusy if process.returncode == StoreBusy.exit_code else StoreError
        cause = trouble.rpartition("\n")[2].strip() or f"exit code {process.returncode}"
        raise kind(sentence or f"The store {path} could not be migrated ({cause}); it is as it was, so try again.")
