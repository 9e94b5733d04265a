"""The daemon as an object: what it is made of, and what can be asked of it while it runs."""

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path

import structlog

from daemon.config.sections import Training
from daemon.domain import Run, RunState
from daemon.genome.directories import LayerDirectories
from daemon.learning import announcing, candidate
from daemon.learning.admin import Admin
from daemon.learning.conductor import Conductor
from daemon.learning.hindrance import base_problem
from daemon.learning.planner import Planner
from daemon.service.logs import configure_logs
from daemon.service.notify import Notifier
from daemon.service.reconciler import Reconciler
from daemon.service.schedule import Schedule
from daemon.service.state import LiveConfig, Note, Wakes, Wishlist
from daemon.store.store import Store
from daemon.training.local import ChildLimits, LocalTrainer

_INTERRUPTIONS_BORNE = 20
"""Failures, crashes included, after which a run counts as what keeps ending us: by taking all memory, say."""

_log = structlog.get_logger()


@dataclass(slots=True)
class Daemon:
    """Everything the loops share."""

    config: LiveConfig
    store: Store
    note: Note
    notifier: Notifier
    trainer: LocalTrainer
    planner: Planner
    conductor: Conductor
    admin: Admin
    reconciler: Reconciler
    wakes: Wakes
    wishlist: Wishlist
    schedule: Schedule
    conducting: Run | None = None
    _conduct_task: asyncio.Task[None] | None = None

    @classmethod
    def build(cls, config: LiveConfig, store: Store, note: Note, notifier: Notifier) -> "Daemon":
        """Put a daemon together over an open store."""
        layers = LayerDirectories(Path(config().layers.directory))
        layers.ensure_writable()
        trainer = LocalTrainer(limits(config().training))
        planner = Planner(store, layers, config)
        conductor = Conductor(store, layers, trainer, config, on_progress=note.progress)
        admin = Admin(store, layers, planner)
        wakes = Wakes()
        wishlist = Wishlist(wakes.planner.set)
        schedule = Schedule(wishlist.at)
        daemon = cls(
            config=config,
            store=store,
            note=note,
            notifier=notifier,
            trainer=trainer,
            planner=planner,
            conductor=conductor,
            admin=admin,
            reconciler=Reconciler(store, layers.root, config),
            wakes=wakes,
            wishlist=wishlist,
            schedule=schedule,
        )
        admin.abort = daemon.abort
        return daemon

    def base_of(self, run: Run) -> str:
        """The base model that a run trains for."""
        return self.config().persona(*run.key).base_model

    async def recover(self) -> None:
        """Take over what a daemon before us left in the middle: whoever holds the lock owns every claim."""
        await self.store.requests.give_up_begun()
        runs = await self.store.runs.live()
        self.conductor.layers.discard_all_but({run.id for run in runs})
        for run in runs:
            if run.state in (RunState.PLANNED, RunState.PROMOTING):
                continue
            log = _log.bind(persona=run.key.persona, trait=run.key.trait, run=run.id)
            self.conductor.layers.discard_candidates(run.id)
            now = self.conductor.clock()
            if run.failures >= _INTERRUPTIONS_BORNE:
                reason = f"interrupted or failed {run.failures} times"
                aside = await self.store.runs.fail(run, reason, now)
                self.conductor.layers.discard(run.id)
                log.error("run.failed", reason=reason)
                announcing.set_aside(log, aside, reason)
            else:
                await self.store.runs.retry(run, "interrupted", now, failed=True)
                log.info("run.recovered", state=run.state, attempt=run.attempt + 1)
            await candidate.retract(self.store, self.conductor.layers, run)

    async def conduct(self, run: Run) -> None:
        """Carry one run as far as it goes, unless an admin cancels it meanwhile."""
        self.conducting = run
        self.trainer.limits = limits(self.config().persona(*run.key).training)
        self._conduct_task = task = asyncio.create_task(self.conductor.conduct(run), name=f"run {run.id}")
        try:
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()
        finally:
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            self.conducting = self._conduct_task = None

    def abort(self, run_id: str) -> None:
        """Stop the run that is being conducted, if it is this one; the store knows of it already."""
        if self._conduct_task and self.conducting and self.conducting.id == run_id:
            self._conduct_task.cancel()

    def look_at_bases(self) -> None:
        """Say at once what will keep traits from being trained, before corrections wait for it in silence."""
        config = self.config()
        for persona in [*config.personas] or [""]:
            if problem := base_problem(persona or "NAME", config.persona(persona).base_model):
                named = {"persona": persona} if persona else {}
                _log.warning("base.missing", **named, reason=problem)

    def reload(self) -> None:
        """SIGHUP, or the file was saved."""
        self.notifier.reloading()
        if self.config.reload():
            configure_logs(self.config().log)
            self.schedule.reconfigure(self.config())
            self.reconciler.reconfigure()
            self.wakes.planner.set()
            self.look_at_bases()
        self.notifier.ready()


def limits(training: Training) -> ChildLimits:
    """What the config grants the trainer child for one trait."""
    return ChildLimits(
        timeout=training.timeout,
        heartbeat=training.heartbeat,
        idle_timeout=training.idle_timeout,
        max_memory_gb=training.max_memory_gb,
        nice=training.nice,
    )
