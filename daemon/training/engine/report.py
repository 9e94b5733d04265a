"""The child's voice: event lines on the real standard output, and a sign of life at most once per second."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from daemon.training.engine.job import Alive, Event, event_line

BEAT = 1.0
"""Seconds between two signs of life."""


class JobFailed(Exception):
    """A job cannot be done; the sentence says why, the rest what `Failed` says."""

    def __init__(self, reason: str, retry: bool = True, blameless: bool = False) -> None:
        super().__init__(reason, retry, blameless)
        self.reason = reason
        self.retry = retry
        self.blameless = blameless


def first_line(error: Exception) -> str:
    """What a library says of its failure, as a part of a sentence; its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


class Reporter:
    """Writes events to one stream, a line each; safe to call from two threads."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._spoke = 0.0

    def emit(self, event: Event) -> None:
        """Write one event now."""
        with self._lock:
            self._stream.write(event_line(event) + "\n")
            self._stream.flush()
            self._spoke = time.monotonic()

    def alive(self, doing: str) -> None:
        """Say what goes on, unless something was said within the last second."""
        if time.monotonic() - self._spoke >= BEAT:
            self.emit(Alive(doing))

    @contextmanager
    def beating(self, doing: str) -> Iterator[None]:
        """Signs of life from a thread, around one call that cannot give them itself."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(BEAT):
                self.alive(doing)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
