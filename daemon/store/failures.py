"""What a database says when it fails, as the errors that commands end with."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError

from daemon.errors import RowRefused, StoreBusy, StoreError


@contextmanager
def as_sentences(path: Path) -> Iterator[None]:
    """Turn what goes wrong with the store at `path` into RowRefused, StoreBusy or StoreError."""
    try:
        yield
    except DatabaseError as error:
        raise _sentence(path, error) from error


def _sentence(path: Path, error: DatabaseError) -> StoreError:
    cause = str(error.orig)
    if isinstance(error, IntegrityError):
        return RowRefused(refusal(error))
    if busy(error):
        return StoreBusy(busy_sentence(path))
    if "readonly" in cause or "unable to open" in cause:
        return StoreError(f"The store {path} cannot be written ({cause}); check who owns it and its directory.")
    if "malformed" in cause or "not a database" in cause:
        return StoreError(f"The store {path} is damaged ({cause}); restore a backup of it.")
    return StoreError(f"The store {path} cannot be used: {cause}.")


def busy(error: DatabaseError) -> bool:
    """Whether another program's transaction is in the way."""
    return isinstance(error, OperationalError) and "locked" in str(error.orig)


def busy_sentence(path: Path) -> str:
    """What to say then."""
    return f"The store {path} is busy: another program holds a transaction on it; try again."


def refusal(error: IntegrityError) -> str:
    """Why the database refused a row, in the words of its own constraints."""
    cause = str(error.orig)
    if missing := re.fullmatch(r"NOT NULL constraint failed: \w+\.(\w+)", cause):
        return f"{missing[1]} is missing."
    if "UNIQUE constraint failed" in cause:
        return f"There is a row with this {cause.rpartition('.')[2]} already."
    return cause.removeprefix("CHECK constraint failed: ").rstrip(".") + "."
