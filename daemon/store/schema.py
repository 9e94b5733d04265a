"""Which version a store is of, and how it is brought to this program's."""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from sqlalchemy.engine import Connection

from daemon.errors import StoreError, StoreNewer

_MIGRATIONS = Path(__file__).with_name("migrations")


def migrate(connection: Connection) -> None:
    """Bring a store to this program's version, in somebody's transaction; raises StoreNewer when it is beyond it."""
    if _version(connection) == newest():
        return
    _refuse_newer(connection)
    # Alembic is needed once per upgrade, and would otherwise weigh on the daemon for as long as it idles.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def is_current(path: Path, patience: float) -> bool:
    """Whether a store is there and of this program's version; what is wrong otherwise shows on opening."""
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", patience, uri=True)) as connection:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error:
        return False
    return row is not None and row[0] == newest()


def require_current(connection: Connection) -> None:
    """Raise StoreError unless the store is of this program's version."""
    _refuse_newer(connection)
    if _version(connection) != newest():
        raise StoreError(
            f"The store {_place(connection)} is older than this program;"
            " start the daemon, or run `persona init`, to migrate it."
        )


def _refuse_newer(connection: Connection) -> None:
    version = _version(connection)
    if version is not None and version not in _versions():
        raise StoreNewer(
            f"The store {_place(connection)} is of version {version}, newer than this program, which knows up to"
            f" {newest()}; upgrade persona-daemon, or restore an older backup of the store."
        )


def _version(connection: Connection) -> str | None:
    tables = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE name = 'alembic_version'")
    if tables.first() is None:
        return None
    version: str | None = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    return version


def _place(connection: Connection) -> str:
    return str(connection.engine.url.database)


def _versions() -> list[str]:
    return sorted(path.name[:4] for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


def newest() -> str:
    """The version that this program's stores are of."""
    return _versions()[-1]
