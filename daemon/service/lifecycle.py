"""The life of the daemon: start-up, main loop, shutdown."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from daemon.config.settings import Config
from daemon.domain import RunState
from daemon.errors import NothingToDo
from daemon.learning.conductor import ready_in
from daemon.learning.planner import Wishes
from daemon.service import loops
from daemon.service.daemon import Daemon
from daemon.service.logs import configure_logs
from daemon.service.notify import Notifier
from daemon.service.signals import handled
from daemon.service.state import LiveConfig, Note
from daemon.store.database import bring_up_to_date
from daemon.store.lock import StoreLock
from daemon.store.store import open_store

_log = structlog.get_logger()


@asynccontextmanager
async def holding(config: Config) -> AsyncIterator[Daemon]:
    """A daemon over the store's lock, with what its predecessor left in the middle taken over; raises PersonaError."""
    notifier = Notifier()
    path = config.store.path
    note = Note(StoreLock(path), notifier)
    note.acquire()
    try:
        await bring_up_to_date(path)
        async with open_store(path) as store:
            daemon = Daemon.build(LiveConfig(config), store, note, notifier)
            try:
                await daemon.recover()
                note.state("ready")
                yield daemon
            finally:
                await daemon.trainer.close()
    finally:
        note.release()


async def serve(config: Config) -> None:
    """Run the service until it is asked to stop; raises PersonaError when it cannot start."""
    configure_logs(config.log)
    for early in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        # Until there is something to reload or to train; the default is to die of them.
        signal.signal(early, signal.SIG_IGN)
    async with holding(config) as daemon:
        with handled(_handlers(daemon)):
            daemon.notifier.ready()
            _log.info("daemon.ready", store=str(config.store.path), pid=os.getpid())
            daemon.look_at_bases()
            try:
                await _until_stopped(daemon)
            except ExceptionGroup as failure:
                # Half alive is worse than gone: whoever watches over us starts us again.
                _log.critical("daemon.failed", reason=_reasons(failure), exc_info=failure)
                sys.exit(1)
    _log.info("daemon.stopped")


async def once(config: Config) -> None:
    """Do what is due now, then leave; raises NothingToDo."""
    configure_logs(config.log)
    async with holding(config) as daemon:
        task = asyncio.current_task()
        assert task is not None

        def leave() -> None:
            task.cancel()

        with handled({signal.SIGTERM: leave, signal.SIGINT: leave}):
            await daemon.admin.serve()
            await daemon.planner.plan(Wishes(hurried=True))
            if not await carry_out(daemon):
                raise NothingToDo("Nothing is due; see `persona status` for why, or `persona train` to train anyway.")


async def carry_out(daemon: Daemon) -> int:
    """Conduct every run that may be tried now, then publish; how many there were."""
    count = 0
    while True:
        now = daemon.conductor.clock()
        runs = [run for run in await daemon.store.runs.live() if not ready_in(run, now)]
        runs = [run for run in runs if run.state in (RunState.PLANNED, RunState.PROMOTING)]
        if not runs:
            await daemon.reconciler.publish()
            return count
        await daemon.conduct(runs[0])
        count += 1


async def _until_stopped(daemon: Daemon) -> None:
    """Run every loop as a named task of one group: one that dies ends them all."""
    daemon.schedule.start(daemon.config())
    named = {
        "watcher": loops.watch_store(daemon),
        "config watcher": loops.watch_config(daemon),
        "planner": loops.plan(daemon),
        "conductor": loops.conduct(daemon),
        "reconciler": daemon.reconciler.run(),
        "status": loops.show_status(daemon),
        "watchdog": loops.show_life(daemon),
    }
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(loop, name=name) for name, loop in named.items()]
            await daemon.wakes.stop.wait()
            # The order of a stop: nothing new is planned or watched, the run at hand is put back or, when it is
            # being promoted, finished; the trainer, the lock and the store go last, as their contexts end.
            for task in tasks:
                task.cancel()
    finally:
        daemon.schedule.stop()


def _reasons(failure: ExceptionGroup[Exception]) -> str:
    """What the loops died of, in a few words."""
    parts = (_reasons(one) if isinstance(one, ExceptionGroup) else repr(one) for one in failure.exceptions)
    return "; ".join(parts)


def _handlers(daemon: Daemon) -> dict[signal.Signals, Callable[[], None]]:
    def drain() -> None:
        if daemon.wakes.stop.is_set():
            # Asked twice: leave at once. What was begun is undone at the next start, and the child dies with us.
            os._exit(1)
        _log.info("daemon.draining")
        daemon.notifier.stopping()
        daemon.note.state("draining")
        daemon.wakes.stop.set()
        asyncio.get_running_loop().call_later(daemon.config().service.grace, os._exit, 1)

    def train() -> None:
        _log.info("daemon.asked", to="train everything pending")
        daemon.wishlist.everything()

    return {
        signal.SIGTERM: drain,
        signal.SIGINT: drain,
        signal.SIGHUP: daemon.reload,
        signal.SIGUSR1: train,
        signal.SIGUSR2: daemon.wakes.status.set,
    }
