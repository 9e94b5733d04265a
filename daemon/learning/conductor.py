"""From a claimed batch to a promoted layer: trains, judges, publishes, promotes, and undoes what fails on the way."""

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import structlog

from daemon.config.settings import Config, Resolved
from daemon.domain import Layer, Run, RunState
from daemon.errors import BaseModelUnusable, ClaimLost, GenomeMoved, LayerError, LayerStale, TrainerFailed
from daemon.genome.directories import LayerDirectories, content_hash_of
from daemon.genome.fingerprint import base_fingerprint
from daemon.genome.manifest import Manifest
from daemon.learning import candidate, dataset, gate
from daemon.learning.dataset import Dataset
from daemon.learning.gate import Decision, Verdict
from daemon.store.store import Store
from daemon.training.engine.job import Finished, Job, Loaded, Step
from daemon.training.trainer import Trainer

T = TypeVar("T")
_FIRST_RETRY_S = 15.0
_LAST_RETRY_S = 3_600.0
_LOG_EVERY_S = 5.0
_PASSED_OVER_S = 900.0
"""How long runs of the loaded base may go before an older one of another."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one attempt works with: the run, its settings, its examples, and the layer it is compared with."""

    run: Run
    settings: Resolved
    data: Dataset
    incumbent: Layer | None
    compared: int
    job: Job


@dataclass(slots=True)
class Conductor:
    """Carries one run after the other through its states; each arrow is one transaction of the store."""

    store: Store
    layers: LayerDirectories
    trainer: Trainer
    config: Callable[[], Config]
    on_step: Callable[[Run, Step | None], None] = lambda _run, _step: None
    """Told of each training step, and with None when the run leaves training."""
    clock: Callable[[], float] = time.time
    _log: structlog.stdlib.BoundLogger = field(default_factory=structlog.get_logger)

    async def conduct(self, run: Run) -> None:
        """Take a planned or promoting run as far as it goes now; what fails goes back for another attempt or ends."""
        log = self._log.bind(persona=run.key.persona, trait=run.key.trait, run=run.id)
        try:
            if run.state is RunState.PROMOTING:
                await _to_the_end(self._promote(run, log))
                return
            taking = asyncio.ensure_future(self.store.runs.take(run))
            try:
                run = await asyncio.shield(taking)
            except asyncio.CancelledError:
                # A stop waits for the transaction, so that what is put back is what was taken.
                run = await taking
                raise
            try:
                await self._attempt(run, log)
            finally:
                self.on_step(run, None)
        except (GenomeMoved, LayerStale) as moved:
            log.info("run.outdated", reason=str(moved))
            await self._again(run, str(moved))
        except (TrainerFailed, LayerError, BaseModelUnusable, OSError) as failure:
            await self._failed(run, failure, log)
        except ClaimLost as lost:
            log.info("run.lost", reason=str(lost))
            current = await self.store.runs.get(run.id)
            if current and not current.state.live:
                self.layers.discard(run.id)
                await candidate.retract(self.store, self.layers, current)
        except asyncio.CancelledError:
            # A stop in the middle: nothing is half done, and the next start tries again.
            await asyncio.shield(self._again(run, "interrupted by a stop"))
            raise

    async def _attempt(self, run: Run, log: structlog.stdlib.BoundLogger) -> None:
        attempt = await self._prepare(run, log)
        if attempt is None:
            return
        finished, fingerprint = await self._train(attempt, log)
        run = await self.store.runs.evaluating(run, attempt.compared)
        verdict = gate.judge(finished.probes, attempt.settings.gate, trained=finished.trained)
        evidence = verdict.evidence(finished.probes, finished.metrics)
        log.info("run.evaluated", decision=verdict.decision, reason=verdict.reason)
        if verdict.decision is Decision.PROMOTE:
            manifest = candidate.manifest(run, attempt.job, attempt.incumbent, fingerprint, finished.metrics)
            published = await _to_the_end(asyncio.to_thread(self.layers.publish, Path(attempt.job.out), manifest))
            run = await self.store.runs.promoting(run, published.path, evidence)
            await _to_the_end(self._promote(run, log))
        else:
            await _to_the_end(self._settle(run, verdict, evidence, log))
            await candidate.retract(self.store, self.layers, run)
        self.layers.discard(run.id)

    async def _prepare(self, run: Run, log: structlog.stdlib.BoundLogger) -> Attempt | None:
        """Gather what a job needs; None when nothing of the batch can be learnt from."""
        settings = self.config().persona(*run.key)
        genome = await self.store.genomes.get(run.key.persona)
        expression = genome.traits.get(run.key.trait)
        if expression and expression.pinned:
            await self.store.runs.cancel(run, "the trait was pinned", self.clock(), held_back=False)
            return None
        claimed = await self.store.corrections.claimed_by(run.id)
        data = dataset.build(claimed, await self.store.corrections.learnt(run.key), settings.system_prompt)
        if data.broken:
            await self.store.runs.set_aside(run, data.broken)
            for correction, reason in data.broken.items():
                log.warning("corrections.quarantined", corrections=1, ids=[correction], reason=reason)
        if all(correction.id in data.broken for correction in claimed):
            await self.store.runs.cancel(run, "nothing of the batch can be learnt from", self.clock(), held_back=False)
            return None
        incumbent = genome.layer(run.key.trait)
        if incumbent and not await self._usable(incumbent, settings, log):
            incumbent = None
        job = candidate.job(run, settings, data.examples, self.layers, incumbent)
        return Attempt(run, settings, data, incumbent, genome.revision, job)

    async def _usable(self, layer: Layer, settings: Resolved, log: structlog.stdlib.BoundLogger) -> bool:
        """Whether a layer can be compared with: if not, it is not served either, and the base stands in for it."""
        try:
            manifest = await asyncio.to_thread(self.layers.verify, layer.path)
        except LayerError as error:
            log.error("layer.broken", layer=layer.path, version=layer.version, reason=str(error))
            return False
        return await asyncio.to_thread(_same_base, manifest, settings.base_model)

    async def _train(self, attempt: Attempt, log: structlog.stdlib.BoundLogger) -> tuple[Finished, str]:
        """Run the job to its end; what it found, and the fingerprint of the base it trained on."""
        last_logged, fingerprint = float("-inf"), ""
        async with aclosing(self.trainer.train(attempt.job)) as events:
            async for event in events:
                match event:
                    case Loaded():
                        log.info("run.loaded", parameters=event.parameters, device=event.device, seconds=event.seconds)
                        # Now, and not at the end: the folder may hold another model by then.
                        fingerprint = await asyncio.to_thread(base_fingerprint, Path(event.folder))
                    case Step():
                        self.on_step(attempt.run, event)
                        if time.monotonic() - last_logged >= _LOG_EVERY_S:
                            last_logged = time.monotonic()
                            numbers = {"step": event.step, "steps": event.steps, "loss": round(event.loss, 4)}
                            log.info("run.training", **numbers, eta_s=round(event.eta_s, 1), learnt=event.learnt)
                    case Finished():
                        return event, fingerprint
                    case _:
                        pass
        raise TrainerFailed("The trainer ended without saying what became of the job.")

    async def _promote(self, run: Run, log: structlog.stdlib.BoundLogger) -> None:
        """Make the published layer the one that speaks, in one transaction; compare again when the genome moved."""
        assert run.layer_path is not None, "a promoting run has a layer"
        manifest = await asyncio.to_thread(self.layers.verify, run.layer_path)
        base_model = self.config().persona(*run.key).base_model
        if not await asyncio.to_thread(_same_base, manifest, base_model):
            raise LayerStale(f"The base model of {run.key} was changed to {base_model} while its layer was trained.")
        layer = candidate.layer(run, manifest, content_hash_of(manifest.files))
        log.info("layer.published", version=run.version, layer=run.layer_path)
        reason = str(run.evidence.get("reason", ""))
        while True:
            try:
                promoted = await self.store.genomes.promote(run, layer, reason, self.clock())
                break
            except GenomeMoved:
                genome = await self.store.genomes.get(run.key.persona)
                expression, incumbent = genome.traits.get(run.key.trait), genome.layer(run.key.trait)
                if (expression and expression.pinned) or (incumbent.id if incumbent else None) != manifest.parent:
                    raise
                # Another trait of the persona moved on: what the gate saw of this one still stands.
                run = await self.store.runs.rebase(run, genome.revision)
        log.info("corrections.used", corrections=promoted.corrections)
        log.info("genome.revised", revision=promoted.revision, version=run.version, layer=promoted.layer.path)

    async def _settle(
        self, run: Run, verdict: Verdict, evidence: dict[str, object], log: structlog.stdlib.BoundLogger
    ) -> None:
        """End a run that leads to no layer."""
        if verdict.decision is Decision.SATISFIED:
            used = await self.store.genomes.satisfy(run, evidence, verdict.reason, self.clock())
            log.info("run.satisfied", reason=verdict.reason)
            log.info("corrections.used", corrections=used)
            return
        worn = await self.store.runs.reject(run, evidence, verdict.reason, self.clock())
        log.warning("run.rejected", reason=verdict.reason)
        if worn:
            reason = f"rejected: {verdict.reason}"
            log.warning("corrections.quarantined", corrections=len(worn), ids=worn, reason=reason)

    async def _again(self, run: Run, reason: str) -> None:
        """Back to planned, through nobody's fault."""
        current = await self.store.runs.get(run.id)
        ours = current is not None and current.fence == run.fence and current.state.live
        if current and ours and current.state is not RunState.PLANNED:
            await self.store.runs.retry(current, reason, self.clock(), failed=False)
        if current and (ours or not current.state.live):
            await candidate.retract(self.store, self.layers, current)
        self.layers.discard(run.id)

    async def _failed(self, run: Run, failure: Exception, log: structlog.stdlib.BoundLogger) -> None:
        """Back to planned after a while, or to the end when it failed too often or another attempt cannot help."""
        self.layers.discard(run.id)
        current = await self.store.runs.get(run.id)
        if current is None or current.fence != run.fence or not current.state.live:
            return
        attempts = self.config().persona(*run.key).training.max_attempts
        reason = str(failure)
        if getattr(failure, "retry", True) and run.failures + 1 < attempts:
            wait = backoff(run.failures)
            log.warning("run.retried", reason=reason, failures=run.failures + 1, of=attempts, again_in_s=round(wait))
            await self.store.runs.retry(current, reason, self.clock() + wait, failed=True)
            await candidate.retract(self.store, self.layers, current)
            return
        aside = await self.store.runs.fail(current, reason, self.clock())
        await candidate.retract(self.store, self.layers, current)
        log.error("run.failed", reason=reason, failures=run.failures + 1)
        log.warning("corrections.quarantined", corrections=len(aside), ids=aside, reason=f"failed: {reason}")


async def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Finish a short piece of work even when the task is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


def _same_base(manifest: Manifest, base_model: str) -> bool:
    """Whether a layer belongs to a base; one of the hub is known by its name until it is loaded."""
    folder = Path(base_model)
    return (
        base_fingerprint(folder) == manifest.base_fingerprint if folder.is_dir() else manifest.base_model == base_model
    )


def next_run(
    runs: Sequence[Run], base_of: Callable[[Run], str], loaded: str, now: float
) -> tuple[Run | None, float | None]:
    """The run to carry on with, else how long until one may be tried again, in seconds; `loaded` is a base model."""
    waiting = [run for run in runs if run.state in (RunState.PLANNED, RunState.PROMOTING)]
    ready = [run for run in waiting if not ready_in(run, now)]
    if not ready:
        return None, min((ready_in(run, now) for run in waiting), default=None)
    # Runs that share the loaded base follow each other, but not for ever while one of another base waits.
    patient = now - min(run.created for run in ready) < _PASSED_OVER_S
    return min(ready, key=lambda run: (run.state is not RunState.PROMOTING, patient and base_of(run) != loaded)), None


def ready_in(run: Run, now: float) -> float:
    """Seconds until a run may be tried; a wait longer than any we set comes of a clock that jumped, and is over."""
    wait = max(run.not_before - now, 0.0)
    return wait if wait <= _LAST_RETRY_S else 0.0


def backoff(failures: int) -> float:
    """Seconds until the next attempt: doubling, bounded, with jitter, so that runs that failed together part."""
    ceiling: float = min(_FIRST_RETRY_S * 2.0**failures, _LAST_RETRY_S)
    return ceiling * random.uniform(0.5, 1.0)
