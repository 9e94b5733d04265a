"""One daemon per store: the kernel keeps the lock, and the note beside it says whose it is."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.errors import StoreError, StoreHeld
from daemon.store.lock import StoreLock
from tests.processes import started

HOLD = """
import os, subprocess, sys
from pathlib import Path
from daemon.store.lock import StoreLock
lock = StoreLock(Path(sys.argv[1]))
lock.acquire({"pid": os.getpid(), "state": "ready"})
child = subprocess.Popen(["sleep", "600"], close_fds=False, start_new_session=True)
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "persona.db"


@contextmanager
def holder(store: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process that holds the lock, and the pid of a child that it started meanwhile."""
    pipe = subprocess.PIPE
    with started(sys.executable, "-c", HOLD, store, stdin=pipe, stdout=pipe) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        try:
            yield process, child
        finally:
            os.kill(child, signal.SIGKILL)


def test_invariant_3_a_second_daemon_is_refused_and_told_of_the_first(store: Path) -> None:
    with holder(store) as (process, _):
        lock = StoreLock(store)
        assert lock.held() and lock.note() == {"pid": process.pid, "state": "ready"}
        with pytest.raises(StoreHeld) as refused:
            lock.acquire({"pid": 1})
        assert str(refused.value) == (
            f"The store {store} is held by another daemon (pid {process.pid});"
            " stop that one first, or give this one a store of its own."
        )
        assert lock.note() == {"pid": process.pid, "state": "ready"}, "the loser leaves no note"


def test_a_killed_holder_holds_nothing_although_its_child_lives(store: Path) -> None:
    with holder(store) as (process, child):
        process.kill()
        process.wait()
        os.kill(child, 0)
        lock = StoreLock(store)
        assert not lock.held()
        assert lock.note() == {"pid": process.pid, "state": "ready"}, "the note survives its author"
        lock.acquire({"pid": os.getpid()})
        assert lock.held()
        lock.release()


def test_a_lock_is_taken_and_let_go_again_and_again(store: Path) -> None:
    first, second = StoreLock(store), StoreLock(store)
    for _ in range(3):
        first.acquire({})
        with pytest.raises(StoreHeld):
            second.acquire({})
        first.release()
        first.release()
        second.acquire({})
        second.release()
    assert not first.held()


def test_a_note_is_replaced_whole_by_a_shorter_one(store: Path) -> None:
    lock = StoreLock(store)
    lock.acquire({"state": "ready", "progress": {"run": list(range(200))}})
    lock.update({"state": "stopped"})
    assert lock.note() == {"state": "stopped"}
    assert json.loads(store.with_name("persona.db.lock").read_text()) == {"state": "stopped"}
    lock.release()


@pytest.mark.parametrize("text", ["", "{", "[1]", "\xff"])
def test_a_note_that_is_none_is_no_note(store: Path, text: str) -> None:
    store.with_name("persona.db.lock").write_text(text, encoding="latin-1")
    assert StoreLock(store).note() is None
    with pytest.raises(StoreHeld, match="pid unknown"):
        first = StoreLock(store)
        descriptor = first._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            first.acquire({})
        finally:
            os.close(descriptor)


def test_where_nobody_ever_was_nobody_holds(store: Path) -> None:
    assert not StoreLock(store).held() and StoreLock(store).note() is None


def test_looking_at_the_lock_does_not_keep_a_daemon_from_it(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = StoreLock(store)
    lock.acquire({})
    lock.release()
    looking = os.open(store.with_name("persona.db.lock"), os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)

    def look_away(_seconds: float) -> None:
        """The daemon has found the lock taken, and waits; whoever looks has seen enough."""
        fcntl.flock(looking, fcntl.LOCK_UN)

    monkeypatch.setattr("daemon.store.lock.time.sleep", look_away)
    lock.acquire({})
    assert StoreLock(store).held()
    lock.release()
    os.close(looking)


def test_a_place_without_room_for_a_lock_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"The store's directory .*file cannot be made \(File exists\); make it"):
        StoreLock(tmp_path / "file" / "persona.db").acquire({})
    (tmp_path / "persona.db.lock").mkdir()
    with pytest.raises(StoreError, match=r"The store's lock .*\.lock cannot be opened \(Is a directory\); see to who"):
        StoreLock(tmp_path / "persona.db").acquire({})
