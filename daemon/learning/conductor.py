"""From a claimed batch to a promoted layer: trains, judges, publishes, promotes, and undoes what fails on the way."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import structlog

from daemon.config.settings import Config, Resolved
from daemon.domain import Kind, Layer, Run, RunState
from daemon.errors import BaseModelUnusable, ClaimLost, GenomeMoved, LayerError, LayerStale, TrainerFailed
from daemon.genome.directories import LayerDirectories, content_hash_of
from daemon.genome.fingerprint import base_fingerprint
from daemon.learning import candidate, dataset, gate
from daemon.learning.dataset import Dataset
from daemon.learning.gate import Decision, Verdict
from daemon.learning.turns import backoff
from daemon.store.store import Store
from daemon.training.engine.job import Finished, Job, Loaded, Resumed, Step
from daemon.training.trainer import Trainer

T = TypeVar("T")
_LONGEST_WAIT_S = 300.0
"""Between two attempts that fail through no fault of the batch: somebody mends the machine, and waits for us."""
_LOG_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one attempt works with: the run, its settings, its examples, and the layer that it would replace."""

    run: Run
    settings: Resolved
    data: Dataset
    incumbent: Layer | None
    """The job has it only where it can be compared with: a broken or a stale one is replaced all the same."""
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
    _unread: dict[str, set[str]] = field(default_factory=dict)
    """By run, what was learnt before and cannot be trained on, where it is in the way of what the run holds."""
    _log: structlog.stdlib.BoundLogger = field(default_factory=structlog.get_logger)

    async def conduct(self, run: Run) -> None:
        """Take a planned or promoting run as far as it goes now; what fails goes back for another attempt or ends."""
        log = self._log.bind(persona=run.key.persona, trait=run.key.trait, run=run.id)
        try:
            if run.state is RunState.PROMOTING:
                await _to_the_end(self._promote(run, log))
                return
            settings_hash = self.config().persona(*run.key).settings_hash
            taking = asyncio.ensure_future(self.store.runs.take(run, settings_hash=settings_hash))
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
        if finished.unusable and not await self._set_aside(run, finished.unusable, log):
            return
        if in_the_way := attempt.data.in_the_way(finished.unusable):
            # Each time there is less in the way: of the batch it is set aside by now, of the history remembered.
            self._unread.setdefault(run.id, set()).update(in_the_way)
            reason = "what replaces other corrections cannot be trained on; those are learnt in its place"
            log.info("run.outdated", reason=reason)
            await self._again(run, reason)
            return
        self._unread.pop(run.id, None)
        run = await self.store.runs.evaluating(run, attempt.compared)
        judging = partial(gate.judge, finished.probes, attempt.settings.gate, trained=finished.trained)
        verdict = await asyncio.to_thread(judging)
        evidence = {**verdict.evidence(finished.probes, finished.metrics), **attempt.data.replaced()}
        log.info("run.evaluated", decision=verdict.decision, reason=verdict.reason)
        if verdict.decision is Decision.PROMOTE:
            superseded = attempt.data.superseded
            manifest = candidate.manifest(run, attempt.job, attempt.incumbent, fingerprint, finished, superseded)
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
        held = await self.store.corrections.claimed_by(run.id)
        # What an earlier attempt set aside is held no more.
        claimed = [correction for correction in held if correction.quarantined is None]
        unread = self._unread.get(run.id, set())
        learnt = [row for row in await self.store.corrections.learnt(run.key) if row.id not in unread]
        data = dataset.build(claimed, learnt, settings.system_prompt)
        if not await self._set_aside(run, data.broken, log):
            return None
        incumbent = genome.layer(run.key.trait)
        usable = incumbent is not None and await self._usable(incumbent, settings, log)
        job = candidate.job(run, settings, data.examples, self.layers, incumbent if usable else None)
        return Attempt(run, settings, data, incumbent, genome.revision, job)

    async def _set_aside(self, run: Run, broken: Mapping[str, str], log: structlog.stdlib.BoundLogger) -> bool:
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

    async def _usable(self, layer: Layer, settings: Resolved, log: structlog.stdlib.BoundLogger) -> bool:
        """Whether a layer can be compared with: if not, it is not served either, and the base stands in for it."""
        try:
            manifest = await asyncio.to_thread(self.layers.verify, layer.path)
        except LayerError as error:
            log.error("layer.broken", layer=layer.path, version=layer.version, reason=str(error))
            return False
        return await asyncio.to_thread(candidate.same_base, manifest, settings.base_model)

    async def _train(self, attempt: Attempt, log: structlog.stdlib.BoundLogger) -> tuple[Finished, str]:
        """Run the job to its end; what it found, and the fingerprint of the base it trained on."""
        last_logged, fingerprint = float("-inf"), ""
        async with aclosing(self.trainer.train(attempt.job)) as events:
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
                        self.on_step(attempt.run, event)
                        if time.monotonic() - last_logged >= _LOG_EVERY_S:
                            last_logged = time.monotonic()
                            log.info("run.training", **event.figures())
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
        if not await asyncio.to_thread(candidate.same_base, manifest, base_model):
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
        if current and current.state.live:
            self.layers.discard_candidates(run.id)
        else:
            self.layers.discard(run.id)

    async def _failed(self, run: Run, failure: Exception, log: structlog.stdlib.BoundLogger) -> None:
        """Back to planned after a while, or to the end when it failed too often or another attempt cannot help."""
        current = await self.store.runs.get(run.id)
        if current is None or current.fence != run.fence or not current.state.live:
            return
        attempts = self.config().persona(*run.key).training.max_attempts
        reason = _sentence(failure)
        counts = isinstance(failure, TrainerFailed) and not failure.blameless
        if not counts:
            # The machine's fault, or the base model's: the corrections wait, however long that takes.
            wait = min(backoff(run.attempt - 1), _LONGEST_WAIT_S)
            log.warning("run.postponed", reason=reason, again_in_s=round(wait))
        elif getattr(failure, "retry", True) and run.failures + 1 < attempts:
            wait = backoff(run.failures)
            log.warning("run.retried", reason=reason, failures=run.failures + 1, of=attempts, again_in_s=round(wait))
        else:
            aside = await self.store.runs.fail(current, reason, self.clock())
            self.layers.discard(run.id)
            await candidate.retract(self.store, self.layers, current)
            log.error("run.failed", reason=reason, failures=run.failures + 1)
            log.warning("corrections.quarantined", corrections=len(aside), ids=aside, reason=f"failed: {reason}")
            return
        await self.store.runs.retry(current, reason, self.clock() + wait, failed=counts)
        await candidate.retract(self.store, self.layers, current)


async def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Finish a short piece of work even when the task is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await task
        raise


def _sentence(failure: Exception) -> str:
    """Why an attempt failed; what the system says of a file, with the file."""
    if isinstance(failure, OSError):
        return f"{failure.filename or 'a file'}: {failure.strerror or failure}"
    return str(failure)
