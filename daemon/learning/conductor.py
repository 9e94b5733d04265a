"""From a claimed batch to a promoted layer: trains, judges, publishes, promotes, and undoes what fails on the way."""

import asyncio
import time
from collections.abc import Callable, Collection, Coroutine
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import structlog

from daemon.config.settings import Config
from daemon.domain import Kind, Purpose, Run, RunState
from daemon.errors import (
    BaseModelUnusable,
    ClaimLost,
    GenomeMoved,
    LayerError,
    LayerStale,
    ProbesUnreadable,
    TrainerFailed,
)
from daemon.genome.directories import LayerDirectories, content_hash_of
from daemon.learning import announcing, candidate, gate
from daemon.learning.attempt import Attempt, Attempts, trained
from daemon.learning.gate import Decision, Verdict
from daemon.learning.judging import Judging
from daemon.learning.making import Making
from daemon.learning.suspects import suspects
from daemon.learning.turns import backoff
from daemon.store.store import Store
from daemon.training.engine.job import Alive, Finished, Step
from daemon.training.trainer import Trainer

T = TypeVar("T")
_FAILURES = (TrainerFailed, LayerError, BaseModelUnusable, ProbesUnreadable, OSError)
"""How a training can fail."""
_LONGEST_WAIT_S = 300.0
"""Between two attempts that fail through no fault of the batch: somebody mends the machine, and waits for us."""


@dataclass(slots=True)
class Conductor:
    """Carries one run after the other through its states; each arrow is one transaction of the store."""

    store: Store
    layers: LayerDirectories
    trainer: Trainer
    config: Callable[[], Config]
    on_progress: Callable[[Run, Step | Alive | None], None] = lambda _run, _at: None
    """Told of each training step, of what goes on between them, and with None when the run leaves training."""
    clock: Callable[[], float] = time.time
    _attempts: Attempts = field(init=False)
    _log: structlog.stdlib.BoundLogger = field(default_factory=structlog.get_logger)

    def __post_init__(self) -> None:
        making = Making(self.store, self.layers, self.config, self.clock)
        self._attempts = Attempts(self.store, self.layers, self.config, self.clock, making, Judging(self.config))

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
                self.on_progress(run, None)
        except (GenomeMoved, LayerStale) as moved:
            log.info("run.outdated", reason=str(moved))
            await self._again(run, str(moved))
        except _FAILURES as failure:
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
        attempts = self._attempts
        attempt = await attempts.prepare(run, log)
        if attempt is None:
            return
        try:
            finished, fingerprint = await trained(self.trainer, attempt.job, partial(self.on_progress, run), log)
        except TrainerFailed as failure:
            if attempt.job.blend is None or failure.retry or failure.blameless:
                raise
            await self._once_more(run, attempt, str(failure), {"decision": Decision.REJECT}, log)
            return
        attempt.require_probes(finished.unusable)
        if finished.unusable and not await attempts.set_aside(run, attempt.data, finished.unusable, log):
            return
        if in_the_way := attempt.data.in_the_way(finished.unusable):
            # Each time there is less in the way: of the batch it is set aside by now, of the history remembered.
            attempts.unread.setdefault(run.id, set()).update(in_the_way)
            reason = "what replaces other corrections cannot be trained on; those are learnt in its place"
            log.info("run.outdated", reason=reason)
            await self._again(run, reason)
            return
        attempts.unread.pop(run.id, None)
        run = await self.store.runs.evaluating(run, attempt.compared)
        finished = await attempts.judged(attempt, finished)
        verdict = await _judged(attempt, finished)
        replaced = attempt.data.replaced(finished.superseded)
        evidence = {**verdict.evidence(finished.probes, finished.metrics), **replaced}
        log.info("run.evaluated", decision=verdict.decision, reason=verdict.reason)
        if verdict.decision is Decision.REJECT and attempt.may_try_again:
            await self._once_more(run, attempt, verdict.reason, evidence, log)
            return
        if verdict.decision is Decision.PROMOTE:
            manifest = candidate.manifest(run, attempt.job, attempt.incumbent, fingerprint, finished, attempt.data)
            published = await _to_the_end(asyncio.to_thread(self.layers.publish, Path(attempt.job.out), manifest))
            run = await self.store.runs.promoting(run, published.path, evidence)
            await _to_the_end(self._promote(run, log))
        else:
            await _to_the_end(self._settle(run, attempt, verdict, evidence, log))
            await candidate.retract(self.store, self.layers, run)
            # The verdict is kept by now: the search takes trainings, and nothing is lost when it is cut short.
            if verdict.decision is Decision.REJECT and (found := await self._suspects(attempt, finished, log)):
                await self.store.runs.explain(run, {**evidence, "suspects": found})
        self.layers.discard(run.id)

    async def _once_more(
        self, run: Run, attempt: Attempt, why: str, evidence: dict[str, object], log: structlog.stdlib.BoundLogger
    ) -> None:
        """Back to planned after a first rejection, to be trained with more care; the evidence says that it was."""
        more_care = "It is trained once more, at half the rate and held twice as much"
        evidence["blended"] = attempt.job.blend is not None
        again = "It is learnt from the corrections instead" if attempt.job.blend else more_care
        reason = f"{why} {again}"
        log.info("run.rejected_once", reason=why)
        await _to_the_end(self.store.runs.retry(run, reason, self.clock(), failed=False, evidence=evidence))
        self.layers.discard_candidates(run.id)

    async def _suspects(
        self, attempt: Attempt, finished: Finished, log: structlog.stdlib.BoundLogger
    ) -> dict[str, object]:
        """Whose corrections are to blame for a rejection, for the evidence; nothing where that cannot be found out."""
        trial = count(1)

        async def passes(ids: Collection[str]) -> bool:
            out = f"{attempt.job.out}-without-{next(trial)}"
            examples = [example for example in attempt.job.examples if example.correction not in ids]
            job = replace(attempt.job, examples=examples, out=out, checkpoint_every=0)
            tried, _ = await trained(self.trainer, job, partial(self.on_progress, attempt.run), log)
            tried = await self._attempts.judged(attempt, tried)
            return (await _judged(attempt, tried)).decision is not Decision.REJECT

        corrections = [row for row in attempt.claimed if row.kind is Kind.CORRECTION]
        try:
            found = await suspects(corrections, finished.probes, attempt.settings.gate, passes)
        except _FAILURES as failure:
            # The verdict stands, whoever is to blame.
            log.warning("run.suspects", reason=f"nobody could be found: {failure}")
            return {}
        log.info("run.suspects", corrections=len(found.ids), ids=found.ids, author=found.author, trainings=found.tried)
        return asdict(found)

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
        if run.purpose is not Purpose.LEARN:
            reason = f"{run.planned_because}. {reason}"
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
        self,
        run: Run,
        attempt: Attempt,
        verdict: Verdict,
        evidence: dict[str, object],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        """End a run that leads to no layer."""
        if verdict.decision is Decision.SATISFIED:
            used = await self.store.genomes.satisfy(run, evidence, verdict.reason, self.clock())
            log.info("run.satisfied", reason=verdict.reason)
            log.info("corrections.used", corrections=used)
            return
        aside = await self.store.runs.reject(run, evidence, verdict.reason, self.clock(), attempt.lost())
        log.warning("run.rejected", reason=verdict.reason)
        for reason, ids in aside.items():
            announcing.set_aside(log, ids, reason)

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
            announcing.set_aside(log, aside, f"failed: {reason}")
            return
        await self.store.runs.retry(current, reason, self.clock() + wait, failed=counts)
        await candidate.retract(self.store, self.layers, current)


async def _judged(attempt: Attempt, finished: Finished) -> Verdict:
    """What the gate says of a candidate; it draws thousands of samples, so not on the event loop."""
    judging = partial(gate.judge, finished.probes, attempt.settings.gate, trained=finished.trained)
    return await asyncio.to_thread(judging)


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
