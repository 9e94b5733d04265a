"""What the loops of one daemon share: the config of the moment, what wakes whom, and the note left for others."""

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog

from daemon import __version__
from daemon.config.settings import RESTART, Config, restart_needed, stamp_of
from daemon.domain import Run
from daemon.errors import ConfigInvalid
from daemon.learning.planner import Ask, Wishes
from daemon.service.notify import Notifier
from daemon.store.lock import StoreLock
from daemon.store.rows import iso
from daemon.training.engine.job import Alive, Step

_NOTE_EVERY_S = 0.5

_log = structlog.get_logger()


@dataclass(slots=True)
class Wakes:
    """Events that loops wait for."""

    planner: asyncio.Event = field(default_factory=asyncio.Event)
    conductor: asyncio.Event = field(default_factory=asyncio.Event)
    status: asyncio.Event = field(default_factory=asyncio.Event)
    stop: asyncio.Event = field(default_factory=asyncio.Event)


class LiveConfig:
    """The config of the moment; a reload replaces it, unless the new one is invalid."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._read = config.stamp

    def __call__(self) -> Config:
        """The config as it is now."""
        return self._config

    def stale(self) -> bool:
        """Whether the file is another than the one that was last read."""
        return stamp_of(self._config.source) != self._read

    def reload(self) -> bool:
        """Read the file again; an invalid one is refused with its sentences, and what needs a restart waits for one."""
        self._read = stamp_of(self._config.source)
        try:
            new = Config.load(self._config.source)
        except ConfigInvalid as error:
            _log.error("config.refused", reason=str(error))
            return False
        later = restart_needed(self._config, new)
        kept = {section: getattr(self._config, section) for section in RESTART}
        changed = new != self._config
        self._config = new.model_copy(update=kept)
        if later:
            reason = f"a restart is needed for {', '.join(later)}; until then the old values hold"
            _log.warning("config.reloaded", changed=changed, needs_restart=later, reason=reason)
        else:
            _log.info("config.reloaded", changed=changed, needs_restart=[])
        return changed


class Note:
    """What this daemon leaves beside its lock, so that `persona status` can tell without asking it."""

    def __init__(self, lock: StoreLock, notifier: Notifier) -> None:
        self._lock = lock
        self._notifier = notifier
        self._written = 0.0
        self._failed = False
        self._values: dict[str, Any] = {
            "state": "stopped",
            "pid": os.getpid(),
            "since": iso(time.time()),
            "version": __version__,
            "progress": {},
        }

    @property
    def values(self) -> Mapping[str, Any]:
        """The note as it is now."""
        return self._values

    def acquire(self) -> None:
        """Take the store's lock, and leave the note with it; raises StoreHeld."""
        self._lock.acquire(self._values)

    def release(self) -> None:
        """Let go of the lock, and say so in what stays behind."""
        self.state("stopped")
        self._lock.release()

    def state(self, state: str) -> None:
        """Move the daemon on: ready, draining, stopped."""
        self._values["state"] = state
        self._write()

    def progress(self, run: Run, at: Step | Alive | None) -> None:
        """Note how far a run is and what it does, or that it does nothing any more."""
        noted = self._values["progress"]
        if at is None:
            noted.pop(run.id, None)
        elif time.monotonic() - self._written < _NOTE_EVERY_S:
            return
        else:
            # What is done between steps leaves the figures of the last one standing.
            noted[run.id] = asdict(at) | {"doing": None} if isinstance(at, Step) else noted.get(run.id, {}) | asdict(at)
            said = f"step {at.step} of at most {at.steps}" if isinstance(at, Step) else at.doing
            self._notifier.status(f"training {run.key} v{run.version}: {said}")
        self._written = time.monotonic()
        self._write()

    def _write(self) -> None:
        # It only tells others: a full disk must end neither a training nor a stop.
        try:
            self._lock.update(self._values)
        except OSError as error:
            if not self._failed:
                _log.warning("note.unwritable", reason=f"{error.strerror or error}; `persona status` shows old news")
            self._failed = True
        else:
            self._failed = False


class Wishlist:
    """Wishes that came by signal or by cron, until the planner takes them."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._cron: set[str] = set()
        self._everything = False

    def everything(self) -> None:
        """Train all that is pending."""
        self._everything = True
        self._wake()

    def at(self, cron: str) -> None:
        """A time of this cron expression has come."""
        self._cron.add(cron)
        self._wake()

    def take(self) -> Wishes:
        """What was wished for since the last call."""
        wishes = Wishes(frozenset(self._cron), (Ask("SIGUSR1"),) if self._everything else ())
        self._cron.clear()
        self._everything = False
        return wishes
