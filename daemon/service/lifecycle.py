"""The life of the daemon: start-up, main loop, shutdown."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from daemon.config.settings import Config
from daemon.domain import Run
from daemon.errors import NothingToDo
from daemon.learning.planner import Wishes
from daemon.learning.turns import next_run
from daemon.service import loops
from daemon.service.daemon import Daemon
from daemon.service.logs import configure_logs
from daemon.service.notify import Notifier
from daemon.service.signals import cancelled_by, handled
from daemon.service.state import LiveConfig, Note
from daemon.store.database import OnBusy, bring_up_to_date
from daemon.store.lock import StoreLock
from daemon.store.store import open_store

_ANSWER_EVERY_S = 0.5
"""How often admins' requests are looked for by who holds the daemon's lock for the length of a command."""

_log = structlog.get_logger()


@asynccontextmanager
async def holding(config: Config, on_busy: OnBusy | None = None) -> AsyncIterator[Daemon]:
    """A daemon over the store's lock, with what its predecessor left in the middle taken over; raises PersonaError."""
    notifier = Notifier()
    path = config.store.path
    note = Note(StoreLock(path), notifier)
    note.acquire()
    try:
        await bring_up_to_date(path)
        async with open_store(path, on_busy=on_busy) as store:
            daemon = Daemon.build(LiveConfig(config), store, note, notifier)
            try:
                await daemon.recover()
                # Who was interrupted between a promotion and its file left the server with the revision before.
                await daemon.reconciler.publish()
                note.state("ready")
                try:
                    yield daemon
                finally:
                    await daemon.reconciler.publish()
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
    with cancelled_by(signal.SIGINT):
        await _serve(config)
    _log.info("daemon.stopped")


async def _serve(config: Config) -> None:
    async with holding(config, _say_busy) as daemon:
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


async def once(config: Config) -> list[Run]:
    """Do what is due now, then leave; the runs there were, as they are now; raises NothingToDo."""
    configure_logs(config.log)
    with cancelled_by(signal.SIGTERM, signal.SIGINT):
        async with holding(config) as daemon:
            answered = await daemon.admin.serve()
            await daemon.planner.plan(Wishes(hurried=True))
            runs = await carry_out(daemon)
            if not runs and not answered:
                raise NothingToDo("Nothing is due; see `persona status` for why, or `persona train` to train anyway.")
            return runs


async def carry_out(daemon: Daemon) -> list[Run]:
    """Conduct every run that may be tried now, answering admins meanwhile; the runs as they are now."""
    conducted: dict[str, Run] = {}
    async with _answering(daemon):
        while run := await _ready(daemon):
            await daemon.conduct(run)
            await daemon.reconciler.publish()
            conducted[run.id] = await daemon.store.runs.get(run.id) or run
    return list(conducted.values())


async def _ready(daemon: Daemon) -> Run | None:
    """The next run that may be tried now; one that was asked for while its trait was busy is planned by then."""
    run, _ = next_run(await daemon.store.runs.live(), daemon.base_of, "", daemon.conductor.clock())
    if run is None and daemon.planner.owes:
        run = next(iter((await daemon.planner.plan(Wishes(hurried=True))).runs), None)
    return run


@asynccontextmanager
async def _answering(daemon: Daemon) -> AsyncIterator[None]:
    """Answer what admins ask for as long as the context lasts, where no planner's loop does."""
    task = asyncio.create_task(_answer(daemon), name="admins")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
    if not task.cancelled():
        task.result()


async def _answer(daemon: Daemon) -> None:
    while True:
        await asyncio.sleep(_ANSWER_EVERY_S)
        if await daemon.admin.serve():
            await daemon.reconciler.publish()


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


def _say_busy(seconds: float) -> None:
    reason = "another program holds a transaction on the store; nothing is lost, and all goes on when it ends"
    _log.warning("store.busy", seconds=round(seconds), reason=reason)


def _reasons(failure: ExceptionGroup[Exception]) -> str:
    """What the loops died of, in a few words."""
    parts = (_reasons(one) if isinstance(one, ExceptionGroup) else repr(one) for one in failure.exceptions)
    return "; ".join(parts)


def _handlers(daemon: Daemon) -> dict[signal.Signals, Callable[[], None]]:
    def drain() -> None:
        if daemon.wakes.stop.is_set():
            # Asked twice: leave at once. What was begun is undone at the next start, and the child dies with us.
            os._exit(1)
        # First of all: whatever becomes of the telling, the stop has begun, and it has an end.
        daemon.wakes.stop.set()
        asyncio.get_running_loop().call_later(daemon.config().service.grace, os._exit, 1)
        daemon.notifier.stopping()
        daemon.note.state("draining")
        _log.info("daemon.draining")

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
