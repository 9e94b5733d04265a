"""Processes that tests start by themselves, and how they see that others are gone, or got somewhere."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from scripts.processes import PATIENCE_S


@contextmanager
def started(*command: str | Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that leads a session of its own; it does not outlive the context, whatever a test finds wrong."""
    with subprocess.Popen(command, text=True, start_new_session=True, **options) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def wait_until(true: Callable[[], bool], otherwise: str = "it did not come true in time") -> None:
    """Wait for something to come true, and fail when it does not in time."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


def gone(pid: int, seconds: float = PATIENCE_S) -> bool:
    """Whether a process ends in time; it is over, too, when nobody has reaped it yet."""
    deadline = time.monotonic() + seconds
    while _lives(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
