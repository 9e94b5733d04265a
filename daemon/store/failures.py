"""What a database says when it fails, as the errors that commands end with."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import DatabaseError, IntegrityError

from daemon.errors import RowRefused, StoreBusy, StoreError

TAKEN = "There is a row with this id already."
"""What is said of an id that another row has."""
_PRIMARY = 0xFF
"""The bits of an extended result code that say what it is a case of (sqlite.org/rescode.html)."""
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
_NO_DIRECTORY = (sqlite3.SQLITE_READONLY_DIRECTORY, sqlite3.SQLITE_READONLY_CANTINIT)


@contextmanager
def as_sentences(path: Path) -> Iterator[None]:
    """Turn what goes wrong with the store at `path` into RowRefused, StoreBusy or StoreError."""
    try:
        with broken_as_sentences(path):
            yield
    except IntegrityError as error:
        raise RowRefused(refusal(error)) from error


@contextmanager
def broken_as_sentences(path: Path) -> Iterator[None]:
    """The same, but a row that the store's own rules refuse is left to whoever wrote it."""
    try:
        yield
    except IntegrityError:
        raise
    except (DatabaseError, sqlite3.Error) as error:
        if busy(error):
            raise StoreBusy(
                f"The store {path} is busy: another program holds a transaction on it; try again when it has ended."
            ) from error
        raise StoreError(_sentence(path, _code(error), getattr(error, "orig", error))) from error


def busy(error: BaseException) -> bool:
    """Whether another program's transaction is in the way."""
    return _code(error) & _PRIMARY in _BUSY


def _code(error: BaseException) -> int:
    code: int = getattr(getattr(error, "orig", error), "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code


def _sentence(path: Path, code: int, cause: object) -> str:
    if code in _NO_DIRECTORY:
        # Whoever opens it first makes two files beside it (sqlite.org/wal.html, "Read-Only Databases").
        return (
            f"Whoever may not write in the directory of the store {path} cannot open it, unless somebody else has it"
            f" open ({cause}); start the daemon, or see to who owns the directory."
        )
    match code & _PRIMARY:
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return f"The store {path} cannot be opened ({cause}); see to who owns it and its directory."
        case sqlite3.SQLITE_READONLY:
            return f"The store {path} cannot be written ({cause}); see to who owns it and its directory."
        case sqlite3.SQLITE_NOTADB:
            return (
                f"The file {path} is not a SQLite database; move it away, set store.url to another file,"
                " or restore a backup of the store."
            )
        case sqlite3.SQLITE_CORRUPT:
            return f"The store {path} is damaged ({cause}); restore a backup of it."
        case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
            return f"The disk of the store {path} fails it ({cause}); see that it is sound and has room."
        case _:
            return f"The store {path} cannot be used ({cause}); see that no other program made or changed its tables."


def refusal(error: IntegrityError) -> str:
    """Why the database refused a row, in the words of its own constraints."""
    cause = str(error.orig)
    if missing := re.fullmatch(r"NOT NULL constraint failed: \w+\.(\w+)", cause):
        return f"{missing[1]} is missing."
    if "UNIQUE constraint failed" in cause:
        return TAKEN if cause.endswith(".id") else f"There is a row with this {cause.rpartition('.')[2]} already."
    return cause.removeprefix("CHECK constraint failed: ").rstrip(".") + "."
