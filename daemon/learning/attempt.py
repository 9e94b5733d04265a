"""One attempt of a run: what it is given to train and to ask, and what a trainer makes of that."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from daemon.config.settings import Config, Resolved
from daemon.domain import Correction, Kind, Layer, Run
from daemon.errors import LayerError, TrainerFailed
from daemon.genome.directories import LayerDirectories
from daemon.genome.fingerprint import base_fingerprint
from daemon.learning import candidate, dataset
from daemon.learning.critical import critical_probes
from daemon.learning.dataset import Dataset
from daemon.store.store import Store
from daemon.training.engine.job import Finished, Job, Loaded, Resumed, Step
from daemon.training.trainer import Trainer

_LOG_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one attempt works with: the run, its settings, its examples, and the layer that it would replace."""

    run: Run
    settings: Resolved
    claimed: Sequence[Correction]
    data: Dataset
    incumbent: Layer | None
    """The job has it only where it can be compared with: a broken or a stale one is replaced all the same."""
    compared: int
    job: Job

    @property
    def may_try_again(self) -> bool:
        """Whether a rejection is followed by a second try: the schedule of "fixed" is what somebody asked for."""
        return self.job.recipe.policy != "fixed" and not self.job.recipe.careful


@dataclass(slots=True)
class Attempts:
    """Prepares attempts."""

    store: Store
    layers: LayerDirectories
    config: Callable[[], Config]
    clock: Callable[[], float]
    unread: dict[str, set[str]] = field(default_factory=dict)
    """By run, what was learnt before and cannot be trained on, where it is in the way of what the run holds."""

    async def prepare(self, run: Run, log: structlog.stdlib.BoundLogger) -> Attempt | None:
        """Gather what a job needs; None when nothing of the batch can be learnt from."""
        settings = self.config().persona(*run.key)
        genome = await self.store.genomes.get(run.key.persona)
        expression = genome.traits.get(run.key.trait)
        if expression and expression.pinned:
            await self.store.runs.cancel(run, "the trait was pinned", self.clock(), held_back=False)
            return None
        held = await self.store.corrections.claimed_by(run.id)
        # What an earlier attempt set aside is held no more.
        claimed = [correction for correction in held if correction.quarantined is None]
        unread = self.unread.get(run.id, set())
        learnt = [row for row in await self.store.corrections.learnt(run.key) if row.id not in unread]
        data = dataset.build(claimed, learnt, settings.system_prompt)
        if not await self.set_aside(run, data.broken, log):
            return None
        incumbent = genome.layer(run.key.trait)
        usable = await self._usable(incumbent, settings, log) if incumbent else None
        probes = await asyncio.to_thread(critical_probes, settings.gate.critical, settings.system_prompt)
        job = candidate.job(run, settings, [*data.examples, *probes], self.layers, usable)
        return Attempt(run, settings, claimed, data, incumbent, genome.revision, job)

    async def set_aside(self, run: Run, broken: Mapping[str, str], log: structlog.stdlib.BoundLogger) -> bool:
        """Quarantine what of a batch cannot be learnt from; whether a correction is left of it, else the run ends."""
        held = [row for row in await self.store.corrections.claimed_by(run.id) if row.quarantined is None]
        reasons = {row.id: broken[row.id] for row in held if row.id in broken}
        if reasons:
            await self.store.runs.set_aside(run, reasons)
        for correction, reason in reasons.items():
            log.warning("corrections.quarantined", corrections=1, ids=[correction], reason=reason)
        # Affirmations alone are no batch, before a run or in one.
        if any(row.kind is Kind.CORRECTION and row.id not in reasons for row in held):
            return True
        await self.store.runs.cancel(run, "nothing of the batch can be learnt from", self.clock(), held_back=False)
        return False

    async def _usable(
        self, layer: Layer, settings: Resolved, log: structlog.stdlib.BoundLogger
    ) -> candidate.Incumbent | None:
        """A layer that can be compared with: if it cannot, it is not served either, and the base stands in for it."""
        try:
            manifest = await asyncio.to_thread(self.layers.verify, layer.path)
        except LayerError as error:
            log.error("layer.broken", layer=layer.path, version=layer.version, reason=str(error))
            return None
        if not await asyncio.to_thread(candidate.same_base, manifest, settings.base_model):
            return None
        return candidate.Incumbent(layer, manifest)


async def trained(
    trainer: Trainer, job: Job, on_step: Callable[[Step], None], log: structlog.stdlib.BoundLogger
) -> tuple[Finished, str]:
    """Run a job to its end; what it found, and the fingerprint of the base it trained on; raises TrainerFailed."""
    last_logged, fingerprint = float("-inf"), ""
    async with aclosing(trainer.train(job)) as events:
        async for event in events:
            match event:
                case Loaded():
                    log.info(
                        "run.loaded",
                        parameters=event.parameters,
                        device=event.device,
                        seconds=round(event.seconds, 2),
                    )
                    if event.fallback:
                        log.warning("run.fallback", reads="padded batches instead of trees", reason=event.fallback)
                    # Now, and not at the end: the folder may hold another model by then.
                    fingerprint = await asyncio.to_thread(base_fingerprint, Path(event.folder))
                case Resumed():
                    log.info("run.resumed", step=event.step, steps=event.steps)
                case Step():
                    on_step(event)
                    if time.monotonic() - last_logged >= _LOG_EVERY_S:
                        last_logged = time.monotonic()
                        log.info("run.training", **event.figures())
                case Finished():
                    return event, fingerprint
                case _:
                    pass
    raise TrainerFailed("The trainer ended without saying what became of the job.")
