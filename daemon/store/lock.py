"""One daemon per SQLite store: a lock that the kernel releases when its holder dies."""

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

from daemon.errors import StoreError, StoreHeld

_LOOKS = 10
_LOOK_AGAIN_S = 0.02
"""Whoever asks whether the lock is held has it for a moment; nobody is refused for that."""


class StoreLock:
    """An exclusive flock beside the store; the file tells others who holds it."""

    def __init__(self, store: Path) -> None:
        self._path = store.with_name(store.name + ".lock")
        self._descriptor: int | None = None

    def acquire(self, note: dict[str, Any]) -> None:
        """Take the lock and leave a note of who we are; raises StoreHeld when somebody else has it."""
        descriptor = self._open()
        if not _locked(descriptor):
            os.close(descriptor)
            holder = self.note() or {}
            raise StoreHeld(
                f"The store {self._path.with_suffix('')} is held by another daemon"
                f" (pid {holder.get('pid', 'unknown')}); stop that one first, or give this one a store of its own."
            )
        self._descriptor = descriptor
        self.update(note)

    def _open(self) -> int:
        directory = self._path.parent
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"The store's directory {directory} cannot be made ({error.strerror}); make it, or set store.url."
            ) from error
        try:
            return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        except OSError as error:
            raise StoreError(
                f"The store's lock {self._path} cannot be opened ({error.strerror});"
                " see to who owns it and its directory, or set store.url."
            ) from error

    def update(self, note: dict[str, Any]) -> None:
        """Replace the note; only the holder may."""
        assert self._descriptor is not None, "the lock is not held"
        text = json.dumps(note).encode()
        # One write, blanks over what was longer before: a reader sees the old note or the new one.
        os.pwrite(self._descriptor, text.ljust(os.fstat(self._descriptor).st_size), 0)

    def release(self) -> None:
        """Let go; the file stays, so that nobody ever locks a file that another is about to remove."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def note(self) -> dict[str, Any] | None:
        """What the holder left, whether or not it still lives; None when it cannot be read."""
        try:
            note = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            return None
        return note if isinstance(note, dict) else None

    def held(self) -> bool:
        """Whether somebody holds the lock at this moment."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


def _locked(descriptor: int) -> bool:
    """Take the lock, unless somebody holds it for longer than a look."""
    for look in range(_LOOKS):
        if look:
            time.sleep(_LOOK_AGAIN_S)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return True
    return False
