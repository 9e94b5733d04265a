"""One attempt of a run: what it is given to train and to ask, and what a trainer makes of that."""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog

from daemon.config.settings import Config, Resolved
from daemon.domain import MADE, UNTAUGHT, Correction, Kind, Layer, Purpose, Run
from daemon.errors import LayerError, ProbesUnreadable, TrainerFailed
from daemon.genome.directories import LayerDirectories
from daemon.genome.fingerprint import base_fingerprint
from daemon.learning import announcing, candidate, dataset
from daemon.learning.critical import contradicting, critical_probes, line_of
from daemon.learning.dataset import Dataset
from daemon.learning.gate import Decision
from daemon.learning.judging import Judging
from daemon.learning.making import Making
from daemon.store.store import Store
from daemon.training.engine.job import Alive, Example, Finished, Group, Job, Loaded, Resumed, Step
from daemon.training.trainer import Trainer

_LOG_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one attempt works with: the run, its settings, its examples, and the layer that it would replace."""

    run: Run
    settings: Resolved
    claimed: Sequence[Correction]
    learnt: Sequence[Correction]
    data: Dataset
    incumbent: Layer | None
    """The job has it only where it can be compared with: a broken or a stale one is replaced all the same."""
    compared: int
    job: Job

    def lost(self) -> list[str]:
        """What a relearning was to bring back to the layer that speaks; nothing where no layer speaks on this base."""
        if self.run.purpose is not Purpose.RELEARN or (self.incumbent and not self.job.incumbent):
            return []
        return [example.id for example in self.data.examples if example.group is Group.BATCH]

    def require_probes(self, unusable: Mapping[str, str]) -> None:
        """Raise ProbesUnreadable where a critical probe could not be asked: without it, nothing is let pass."""
        for example in self.job.examples:
            if example.group is Group.CRITICAL and example.id in unusable:
                where = f"Line {line_of(example)} of the critical probes {self.settings.gate.critical}"
                raise ProbesUnreadable(f"{where} cannot be asked: {unusable[example.id]}.")

    @property
    def may_try_again(self) -> bool:
        """Whether a rejection is followed by a second try: the schedule of "fixed" is what somebody asked for."""
        return not was_rejected(self.run) and (self.job.recipe.policy != "fixed" or self.job.blend is not None)


def was_rejected(run: Run) -> bool:
    """Whether the gate has refused a candidate of this run already."""
    return run.evidence.get("decision") == Decision.REJECT


@dataclass(slots=True)
class Attempts:
    """Prepares attempts."""

    store: Store
    layers: LayerDirectories
    config: Callable[[], Config]
    clock: Callable[[], float]
    making: Making
    judging: Judging
    unread: dict[str, set[str]] = field(default_factory=dict)
    """By run, what was learnt before and cannot be trained on, where it is in the way of what the run holds."""

    async def prepare(self, run: Run, log: structlog.stdlib.BoundLogger) -> Attempt | None:
        """Gather what a job needs; None when nothing of the batch can be learnt from."""
        settings = self.config().persona(*run.key)
        genome = await self.store.genomes.get(run.key.persona)
        expression = genome.traits.get(run.key.trait)
        if expression and expression.pinned:
            await self._cancel(run, "the trait was pinned", log, held_back=False)
            return None
        held = await self.store.corrections.claimed_by(run.id)
        # What an earlier attempt set aside is held no more.
        claimed = [correction for correction in held if correction.quarantined is None]
        unread = self.unread.get(run.id, set())
        learnt = [row for row in await self.store.corrections.learnt(run.key) if row.id not in unread]
        incumbent = genome.layer(run.key.trait)
        usable = await self._usable(incumbent, settings, log) if incumbent else None
        known = await self._known(run, claimed, learnt, incumbent, usable)
        probes = await asyncio.to_thread(critical_probes, settings.gate.critical, settings.system_prompt)
        data = _data(claimed, learnt, settings.system_prompt, known, probes)
        if not await self.set_aside(run, data, data.broken, log):
            return None
        blend = None if was_rejected(run) else await self.making.blend(run, settings.base_model)
        careful = was_rejected(run) and not run.evidence.get("blended")
        reworded = await self.judging.reworded([*claimed, *learnt], data.examples)
        job = candidate.job(run, settings, [*data.examples, *reworded, *probes], self.layers, usable)
        job = replace(job, blend=blend, recipe=replace(job.recipe, careful=careful))
        return Attempt(run, settings, claimed, learnt, data, incumbent, genome.revision, job)

    async def judged(self, attempt: Attempt, finished: Finished) -> Finished:
        """What a trainer found, with what a judge says of the answers that differ from what is expected."""
        # What is not trained is not asked in a judge's words either: those have ids of their own.
        gone = {*finished.superseded, *finished.unusable}
        probes = [one for one in finished.probes if one.group is not Group.REWORDING or one.correction not in gone]
        finished = replace(finished, probes=probes)
        rows = [*attempt.claimed, *attempt.learnt]
        return await self.judging.judged(finished, rows, attempt.data.examples)

    async def set_aside(
        self, run: Run, data: Dataset, broken: Mapping[str, str], log: structlog.stdlib.BoundLogger
    ) -> bool:
        """Quarantine what of a batch cannot be learnt from; whether a correction is left of it, else the run ends."""
        held = [row for row in await self.store.corrections.claimed_by(run.id) if row.quarantined is None]
        reasons = {row.id: broken[row.id] for row in held if row.id in broken}
        if reasons:
            await self.store.runs.set_aside(run, reasons)
        for correction, reason in reasons.items():
            announcing.set_aside(log, [correction], reason)
        # Affirmations alone are no batch, before a run or in one.
        if any(row.kind is Kind.CORRECTION and row.id not in reasons for row in held):
            return True
        batch = [example for example in data.examples if example.group is Group.BATCH]
        if run.purpose is not Purpose.LEARN and any(example.id not in broken for example in batch):
            return True  # what was learnt once is held by no run
        why = "nothing of the batch can be learnt from" if held or reasons else "there is nothing to learn again"
        # Nothing new comes of asking for the same again.
        await self._cancel(run, why, log, held_back=run.purpose is not Purpose.LEARN)
        return False

    async def _cancel(self, run: Run, why: str, log: structlog.stdlib.BoundLogger, *, held_back: bool) -> None:
        aside = await self.store.runs.cancel(run, why, self.clock(), held_back=held_back)
        announcing.set_aside(log, aside, f"not learnt: {why}")

    async def _known(
        self,
        run: Run,
        claimed: Sequence[Correction],
        learnt: Sequence[Correction],
        incumbent: Layer | None,
        usable: candidate.Incumbent | None,
    ) -> set[str]:
        """What of all that was learnt need not be learnt again: the layer that speaks was taught it, or answers it."""
        if run.purpose is Purpose.LEARN and await self._was_refused(run, incumbent):
            return {row.id for row in learnt}  # rehearsed, and asked of no batch that came later
        if incumbent and usable is None:
            return set()  # it speaks no more
        if run.purpose in MADE and not claimed:
            return set()  # whatever is made has to answer all that is here already
        return {*(usable.manifest.known if usable else ())} | await self.store.genomes.satisfied(run.key, incumbent)

    async def _was_refused(self, run: Run, incumbent: Layer | None) -> bool:
        """Whether what the layer that speaks has lost could not be learnt again."""
        last = await self.store.runs.last_ended(run.key, Purpose.RELEARN)
        since = incumbent.version if incumbent else 0
        if last is None or last.version <= since or last.settings_hash != run.settings_hash:
            return False
        return last.state in UNTAUGHT

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


def _data(
    claimed: Sequence[Correction],
    learnt: Sequence[Correction],
    system_prompt: str,
    known: Collection[str],
    probes: Sequence[Example],
) -> Dataset:
    """The examples of a job, without those that contradict a critical probe: these replace nothing either."""
    broken: dict[str, str] = {}
    while True:
        batch, earlier = ([row for row in part if row.id not in broken] for part in (claimed, learnt))
        data = dataset.build(batch, earlier, system_prompt, known)
        found = contradicting(data.examples, probes)
        if not found:
            return replace(data, broken={**data.broken, **broken})
        broken |= found


async def trained(
    trainer: Trainer, job: Job, on_progress: Callable[[Step | Alive], None], log: structlog.stdlib.BoundLogger
) -> tuple[Finished, str]:
    """Run a job to its end; what it found, and the fingerprint of the base it trained on; raises TrainerFailed."""
    last_logged, fingerprint, doing = float("-inf"), "", ""
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
                case Alive():
                    on_progress(event)
                    # Minutes may pass before the first step, and after the last.
                    if event.doing not in (doing, "training"):
                        log.info("run.doing", doing=event.doing)
                    doing = event.doing
                case Step():
                    on_progress(event)
                    if time.monotonic() - last_logged >= _LOG_EVERY_S:
                        last_logged = time.monotonic()
                        log.info("run.training", **event.figures())
                case Finished():
                    return event, fingerprint
                case _:
                    pass
    raise TrainerFailed("The trainer ended without saying what became of the job.")
