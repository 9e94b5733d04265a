"""The SQLite file behind the store: how it is opened, read, written and watched."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from sqlite3 import Error as SqliteError
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from daemon.errors import StoreBusy, StoreError
from daemon.store.failures import busy, busy_sentence
from daemon.store.schema import is_current, migrate, require_current

BUSY_TIMEOUT_MS = 5_000
PATIENCE_S = 60.0
"""How long a write waits for foreign writers before it gives up."""


class Database:
    """One SQLite store: many short readers, and one long-lived connection for everything that we write."""

    def __init__(self, engine: AsyncEngine, writer: AsyncConnection) -> None:
        self._engine = engine
        self._writer = writer
        self._writing = asyncio.Lock()
        self._seen: tuple[Any, int] | None = None

    @classmethod
    async def open(cls, path: Path, *, create: bool) -> "Database":
        """Open a store; `create` makes and migrates it, else it must be there and current; raises StoreError."""
        _require_place(path, create=create)
        engine = _engine(path)
        try:
            writer = await (await engine.connect()).execution_options(immediate=True)
            try:
                await writer.run_sync(migrate if create else require_current)
            except BaseException:
                await writer.close()
                raise
        except DatabaseError as error:
            await engine.dispose()
            if busy(error):
                raise StoreBusy(busy_sentence(path)) from error
            raise StoreError(_open_sentence(path, error)) from error
        except BaseException:
            await engine.dispose()
            raise
        return cls(engine, writer)

    async def close(self) -> None:
        """Give every connection back."""
        await self._writer.close()
        await self._engine.dispose()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A consistent view of the store."""
        async with self._engine.connect() as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """One transaction, begun IMMEDIATE, so that what it reads is what it changes; an error rolls it back."""
        async with self._writing:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception(_is_busy),
                stop=stop_after_delay(PATIENCE_S),
                wait=wait_random_exponential(multiplier=0.05, max=1.0),
                reraise=True,
            ):
                with attempt:
                    await self._writer.begin()
            try:
                yield self._writer
                await self._writer.commit()
            except BaseException:
                await self._writer.rollback()
                raise

    async def changed(self) -> bool:
        """Whether another connection has committed since the last call; our own writes do not count."""
        async with self._writing:
            raw = await self._writer.get_raw_connection()
            connection: Any = raw.driver_connection
            async with connection.execute("PRAGMA data_version") as cursor:
                (version,) = await cursor.fetchone()
        # The number counts for one connection only, and a cancelled write costs the writer its connection.
        changed = self._seen is None or self._seen[0] is not connection or self._seen[1] != version
        self._seen = connection, version
        return changed

    @property
    def checked_out(self) -> int:
        """Connections in use: 1, the writer's, when nobody reads."""
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


def _is_busy(error: BaseException) -> bool:
    return isinstance(error, OperationalError) and "locked" in str(error.orig)


def _require_place(path: Path, *, create: bool) -> None:
    if not create:
        if not path.is_file():
            raise StoreError(f"There is no store at {path}; run `persona init`, or start the daemon, to create it.")
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"The store's directory {path.parent} cannot be made: {error.strerror}; make it, or set store.url."
        ) from error
    # SQLite would make the file for its owner to write alone; whom the umask lets, may. What is wrong shows on opening.
    with suppress(OSError):
        path.touch(0o666, exist_ok=False)


def _open_sentence(path: Path, error: DatabaseError) -> str:
    cause = str(error.orig)
    if "unable to open" in cause or "readonly" in cause:
        return f"The store {path} cannot be opened for writing ({cause}); check who owns it and its directory."
    if "not a database" in cause:
        return f"The file {path} is not a SQLite database; move it away, or set store.url to another file."
    return f"The store {path} cannot be used: {cause}; see that no other program made tables of these names in it."


async def bring_up_to_date(path: Path) -> None:
    """Create or migrate a store in a process of its own, whose memory goes with it; raises StoreError."""
    _require_place(path, create=True)
    if await asyncio.to_thread(is_current, path):
        return
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "daemon.store",
        str(path),
        stderr=asyncio.subprocess.PIPE,
        # Ctrl-C on a terminal is meant for us: a migration that has begun is finished.
        start_new_session=True,
    )
    _, said = await process.communicate()
    if process.returncode:
        raise StoreError(said.decode(errors="replace").strip())
