"""The loops of the daemon, one function each; whichever dies takes the service down, and systemd restarts it."""

import asyncio
import contextlib
import time
from pathlib import Path

import structlog

from daemon.domain import TraitKey
from daemon.errors import StoreError
from daemon.learning import status
from daemon.learning.planner import Plan
from daemon.learning.turns import next_run
from daemon.service.daemon import Daemon
from daemon.service.logs import always
from daemon.service.watching import changes, saved

_RESCAN_S = 60.0
"""Longest time between two looks of the planner: whatever a clock did, a trait that is due is found."""

_log = structlog.get_logger()


async def watch_store(daemon: Daemon) -> None:
    """Wake the planner when somebody else wrote to the store: on file events, and at a slow beat besides."""
    path = daemon.config().store.path
    opened = _inode(path)
    async for _ in changes(path.parent, {path.name, f"{path.name}-wal"}, daemon.config):
        if _inode(path) != opened:
            # What we hold open is nobody's any more; whoever watches over us starts us on the new one.
            raise StoreError(f"The store {path} was replaced or removed while the daemon ran; start it again.")
        if await daemon.store.changed():
            daemon.wakes.planner.set()


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


async def watch_config(daemon: Daemon) -> None:
    """Reload config.toml when it is saved."""
    async for _ in saved(daemon.config):
        daemon.reload()


async def plan(daemon: Daemon) -> None:
    """Answer admins, and turn what is due into runs, whenever something happened or its time has come."""
    known: dict[TraitKey, int] = {}
    while True:
        daemon.wakes.planner.clear()
        await daemon.admin.serve()
        made = await daemon.planner.plan(daemon.wishlist.take())
        known = _say_what_came(made, known)
        daemon.wakes.conductor.set()
        daemon.reconciler.wake()
        _tell_status(daemon, made)
        # By the monotonic clock: one that is set back must not keep the planner asleep.
        pause = _RESCAN_S if made.again_in is None else min(max(made.again_in, 0.05), _RESCAN_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await daemon.wakes.planner.wait()


def _say_what_came(made: Plan, known: dict[TraitKey, int]) -> dict[TraitKey, int]:
    """Log what the planner sees that it did not see before; what it knows now."""
    # What a run has claimed is no backlog any more: the next row is news again.
    claimed = {run.key for run in made.runs}
    seen = {
        judgement.backlog.key: 0 if judgement.backlog.key in claimed else judgement.backlog.pending
        for judgement in made.judgements
    }
    for judgement in made.judgements:
        backlog, due = judgement.backlog, judgement.due
        if backlog.pending > known.get(backlog.key, 0):
            key = backlog.key
            _log.info(
                "corrections.seen", persona=key.persona, trait=key.trait, corrections=backlog.pending, due=due.due,
                why=due.why,
            )  # fmt: skip
    return seen


def _tell_status(daemon: Daemon, made: Plan) -> None:
    """What waits, as `systemctl status` shows it; a run that is under way tells of itself."""
    if daemon.conducting is None:
        waiting = [judgement.backlog.pending for judgement in made.judgements if judgement.backlog.pending]
        daemon.notifier.status(f"{sum(waiting)} corrections pending in {len(waiting)} traits")


async def conduct(daemon: Daemon) -> None:
    """Carry one run after the other as far as it goes; those that share a base follow each other."""
    base = ""
    while True:
        daemon.wakes.conductor.clear()
        run, wait = next_run(await daemon.store.runs.live(), daemon.base_of, base, time.time())
        if run is None:
            try:
                async with asyncio.timeout(wait):
                    await daemon.wakes.conductor.wait()
            except TimeoutError:
                pass
            continue
        base = daemon.base_of(run)
        await daemon.conduct(run)
        daemon.wakes.planner.set()


async def show_status(daemon: Daemon) -> None:
    """Write the full status to the log when SIGUSR2 asks for it."""
    while True:
        await daemon.wakes.status.wait()
        daemon.wakes.status.clear()
        always("daemon.status", **await status.document(daemon.store, daemon.config(), daemon.note.values))


async def show_life(daemon: Daemon) -> None:
    """Tell systemd's watchdog that the event loop turns."""
    period = daemon.notifier.watchdog_s
    while period:
        daemon.notifier.alive()
        await asyncio.sleep(period / 2)
