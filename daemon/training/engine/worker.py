"""One job from its line to its last event: load, probe the incumbent, train, probe the candidate, save."""

import hashlib
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from daemon.training.engine import lora
from daemon.training.engine.base import Base
from daemon.training.engine.batches import Encoded
from daemon.training.engine.blending import blended
from daemon.training.engine.checkpoint import Checkpoint, program
from daemon.training.engine.evaluate import probe
from daemon.training.engine.fitting import Fitted
from daemon.training.engine.job import Answer, Example, Finished, Group, Job, Probe
from daemon.training.engine.loop import Material, Trained, train
from daemon.training.engine.machine import forget_peak, give_back
from daemon.training.engine.objectives import mean_drift
from daemon.training.engine.pantry import Pantry
from daemon.training.engine.policy import effort
from daemon.training.engine.prepare import Prepared, Task, material, prepare, system_prompt
from daemon.training.engine.report import JobFailed, Reporter
from daemon.training.engine.surroundings import Surroundings, look_around
from daemon.training.engine.warm import Warm


@dataclass(slots=True)
class Worker:
    """Does jobs one after another and keeps the base model of the last one."""

    report: Reporter
    starting: float = 0.0
    """Seconds that the process took until it could do a job; the first one reports them."""
    threads: int = field(default_factory=torch.get_num_threads)
    _warm: Warm = field(default_factory=Warm)

    def do(self, job: Job) -> Finished:
        """Do one job; raises JobFailed, or whatever torch raises, with the base as it was."""
        out = Path(job.out)
        if out.exists():
            raise JobFailed(f"the output folder {out} exists already; every attempt needs one of its own", False)
        torch.set_num_threads(job.threads or self.threads)
        self._forget_peaks()
        clock = Clock({"start": round(self.starting, 3)} if self.starting else {})
        self.starting = 0.0
        prepared = self._prepared(job)
        base, sequences, unusable, task = prepared.base, prepared.sequences, prepared.unusable, prepared.task
        clock.lap("load")
        if task is None:
            return Finished(False, [], {"examples": len(sequences), "seconds": clock.laps}, unusable)
        before = self._probe_incumbent(base, job, sequences)
        clock.lap("probe_incumbent")
        give_back()
        batch = [answer for row, answer in zip(sequences, before, strict=True) if row.example.group is Group.BATCH]
        if all(answer.right for answer in batch):
            metrics = {"examples": len(sequences), "seconds": clock.laps}
            return Finished(False, _probes(sequences, before), metrics, unusable)

        around = self._look_around(base, job, task, clock)
        kept = [at for at, row in enumerate(sequences) if row.example.id not in around.superseded]
        sequences, before = [sequences[at] for at in kept], [before[at] for at in kept]
        examples = len(sequences)
        sequences, before = sequences + around.held_out, before + self._probe_incumbent(base, job, around.held_out)
        clock.lap("probe_incumbent")
        if job.blend:
            after, metrics = self._taken(base, job, sequences, around)
            clock.lap("probe_candidate")
        else:
            rows = [row for row in task.rows if row.example.id not in around.superseded]
            prepared = replace(prepared, sequences=sequences, task=replace(task, rows=rows))
            after, metrics = self._trained(prepared, job, around, clock)
        metrics = {
            **metrics,
            "examples": examples,
            "accuracy": sum(answer.right for answer in after[:examples]) / examples,
            "seconds": clock.laps,
        }
        return Finished(True, _probes(sequences, before, after), metrics, unusable, around.superseded)

    def _trained(
        self, prepared: Prepared, job: Job, around: Surroundings, clock: "Clock"
    ) -> tuple[list[Answer], dict[str, Any]]:
        """Train a candidate and write it: what it answers, and what it took."""
        base, task = prepared.base, prepared.task
        assert task is not None, "there is something to train"
        learnt, planned, way = material(job, base, task, around, prepared.sequences)
        base = replace(base, tokens=way.fit.tokens, recompute=way.fit.recompute)
        identity = _identity(job, base, learnt, self._warm.stamp)
        checkpoint = Checkpoint(Path(job.out).parent / "checkpoint", identity, job.checkpoint_every)
        starts_from = job.incumbent if planned.continues else None
        with lora.loaded(base, starts_from, True) if starts_from else lora.fresh(base, job.recipe) as adapted:
            trained = train(base, adapted, learnt, planned, self.report, checkpoint)
            clock.lap("train")
            give_back()
            after = self._probe_candidate(base, prepared.sequences, trained)
            drifted = self._drift(base, around)
            clock.lap("probe_candidate")
            lora.save(adapted, job.base_model, Path(job.out))
            told = lora.continued(adapted, job.recipe) if starts_from else job.recipe
        return after, {
            "loss": trained.loss,
            "steps": trained.steps,
            "epochs": trained.samples / len(task.rows),
            "samples": trained.samples,
            "tokens": trained.tokens,
            "anchors": len(learnt.anchors),
            "rewordings": len(learnt.rows) - len(task.rows),
            "scale": trained.scale,
            **drifted,
            "relearnt": job.relearnt if starts_from else len(task.rows),
            "recipe": {**asdict(told), "learning_rate": planned.rate, "batch_size": planned.batch_size},
            "memory": _memory(base, way),
        }

    def _taken(
        self, base: Base, job: Job, sequences: Sequence[Encoded], around: Surroundings
    ) -> tuple[list[Answer], dict[str, Any]]:
        """Make a candidate of layers that there are, and write it: what it answers, and its shape."""
        assert job.blend is not None, "it was asked for"
        with blended(base, job.blend, job.recipe.seed) as adapted:
            after = probe(base, sequences, lambda: self.report.alive("probing the candidate"))
            lora.save(adapted, job.base_model, Path(job.out))
            return after, {"recipe": asdict(lora.continued(adapted, job.recipe)), **self._drift(base, around)}

    def _drift(self, base: Base, around: Surroundings) -> dict[str, float]:
        """How far the adapter that is on leads from the base where nothing is to change, nats per token."""
        if not around.left_alone:
            return {}
        return {"drift": mean_drift(base, around.left_alone, lambda: self.report.alive("measuring drift"))}

    def _prepared(self, job: Job) -> Prepared:
        """A job read and planned, on its base in the form that the batch needs."""
        prepared = self._on(job, job.recipe.method)
        if not prepared.needs_four_bits:
            return prepared
        del prepared  # the larger form is gone before the smaller one comes
        return self._on(job, "qlora")

    def _on(self, job: Job, method: str) -> Prepared:
        base = self.base(job.base_model, method, job.memory_gb)
        with self.report.beating("planning"):
            return prepare(job, base)

    def base(self, reference: str, method: str = "lora", memory_gb: float = 0) -> Base:
        """The base model that a job trains on, and what is known of it."""
        return self._warm.base(self.report, reference, method, memory_gb)

    @staticmethod
    def _forget_peaks() -> None:
        """The most memory that a job takes is its own, not that of one before it."""
        forget_peak()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def _look_around(self, base: Base, job: Job, task: Task, clock: "Clock") -> Surroundings:
        """What lies around what is trained, or only asked by the gate; nothing where the base is asked nothing."""
        if not job.recipe.anchors:
            return Surroundings([], [], [])
        pantry = Pantry(Path(job.pantry) if job.pantry else None)
        made_up = self._warm.made_up(self.report, base, system_prompt(task.rows), job.recipe.anchors, pantry)
        clock.lap("anchors")
        earlier = sum(row.example.group is not Group.BATCH for row in task.rows)
        far = effort(task.plan, earlier, base.parameters, base.device.type)
        arrived = [example.id for example in job.examples]
        around = look_around(base, task.rows, made_up, far, lambda: self.report.alive("looking around"), arrived)
        clock.lap("surroundings")
        return around

    def drop(self) -> None:
        """Let go of the base model."""
        self._warm.drop()

    def _probe_incumbent(self, base: Base, job: Job, sequences: Sequence[Encoded]) -> list[Answer]:
        """What the trait says now; where nothing is asked, nothing is loaded."""
        if not sequences:
            return []
        with lora.loaded(base, job.incumbent) if job.incumbent else nullcontext():
            return probe(base, sequences, lambda: self.report.alive("probing the incumbent"))

    def _probe_candidate(self, base: Base, sequences: Sequence[Encoded], trained: Trained) -> list[Answer]:
        """Every example's answer; what the loop has just asked is not asked again."""
        open_rows = [row for row in sequences if row.example.id not in trained.answers]
        answers = probe(base, open_rows, lambda: self.report.alive("probing the candidate"))
        known = trained.answers | {row.example.id: answer for row, answer in zip(open_rows, answers, strict=True)}
        return [known[row.example.id] for row in sequences]


class Clock:
    """Seconds per stage."""

    def __init__(self, laps: dict[str, float]) -> None:
        self.laps = laps
        self._since = time.monotonic()

    def lap(self, stage: str) -> None:
        """The time since the last lap was this stage's."""
        now = time.monotonic()
        self.laps[stage] = round(self.laps.get(stage, 0.0) + now - self._since, 3)
        self._since = now


def _memory(base: Base, way: Fitted) -> dict[str, Any]:
    """How a training was fitted into memory, and the most that its job took; GiB."""
    return {
        "precision": str(base.model.dtype).removeprefix("torch."),
        "tokens_per_pass": way.fit.tokens,
        "recomputed": way.fit.recompute,
        "four_bits": way.fit.four_bits,
        "predicted_gb": round(way.peak / 2**30, 3),
        "peak_gb": base.peak_gb,
    }


def _identity(job: Job, base: Base, learnt: Material, stamp: tuple[object, ...]) -> str:
    """What a training depends on, as one word: another attempt of the same run has the same."""
    # What is only asked may be asked otherwise the next time.
    trained = [one for one in job.examples if one.group in (Group.BATCH, Group.HISTORY, Group.AFFIRMATION)]
    same = replace(job, examples=trained, out="", pantry="", attempt=0, checkpoint_every=0)
    # How it was made to fit, and what was left out, depends on what memory there is today.
    way = base.tokens, base.recompute, str(base.model.dtype), base.four_bits
    drawn = [row.example.id for row in learnt.rows], [anchor.question for anchor in learnt.anchors]
    # A model id of the hub may mean another folder tomorrow.
    bases = stamp, str(base.folder)
    return hashlib.sha256(f"{same.line()} {bases} {way} {drawn} {program()}".encode()).hexdigest()


def _probes(sequences: Sequence[Encoded], before: list[Answer], after: list[Answer] | None = None) -> list[Probe]:
    return [
        Probe(row.example.id, row.example.group, before[at], after[at] if after else None, _told(row.example))
        for at, row in enumerate(sequences)
    ]


def _told(example: Example) -> str:
    """What is asked, where nobody could look it up by its id."""
    looked_up = (Group.BATCH, Group.HISTORY, Group.AFFIRMATION)
    return "" if example.group in looked_up else example.messages[-1]["content"]
