"""One job from its line to its last event: load, probe the incumbent, train, probe the candidate, save."""

import hashlib
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError

from daemon.training.engine import lora
from daemon.training.engine.anchors import Anchor, make_anchors, unrelated
from daemon.training.engine.base import Base, load_base
from daemon.training.engine.batches import Encoded, encode
from daemon.training.engine.checkpoint import Checkpoint
from daemon.training.engine.evaluate import probe
from daemon.training.engine.job import Answer, Finished, Group, Job, Loaded, Probe
from daemon.training.engine.loop import Material, Trained, train
from daemon.training.engine.packing.capability import asked
from daemon.training.engine.policy import Plan, anchor_count, plan, to_train
from daemon.training.engine.report import JobFailed, Reporter, first_line


@dataclass(slots=True)
class Worker:
    """Does jobs one after another and keeps the base model of the last one."""

    report: Reporter
    threads: int = field(default_factory=torch.get_num_threads)
    _base: Base | None = None
    _stamp: tuple[object, ...] = ()
    _anchors: list[Anchor] | None = None

    def do(self, job: Job) -> Finished:
        """Do one job; raises JobFailed, or whatever torch raises, with the base as it was."""
        out = Path(job.out)
        if out.exists():
            raise JobFailed(f"the output folder {out} exists already; every attempt needs one of its own", False)
        torch.set_num_threads(job.threads or self.threads)
        clock = Clock()
        base = self.base(job.base_model)
        clock.lap("load")
        sequences, unusable = encode(base, job.examples)
        with lora.loaded(base, job.incumbent) if job.incumbent else nullcontext():
            before = probe(base, sequences, lambda: self.report.alive("probing the incumbent"))
        clock.lap("probe_incumbent")
        batch = [answer for row, answer in zip(sequences, before, strict=True) if row.example.group is Group.BATCH]
        if all(answer.right for answer in batch):
            metrics = {"examples": len(sequences), "seconds": clock.laps}
            return Finished(False, _probes(sequences, before), metrics, unusable)

        rows = to_train(job.recipe, sequences)
        planned = _plan(job, base, rows)
        anchors = unrelated(self.anchors(base), rows) if planned.anchors else []
        clock.lap("anchors")
        checkpoint = Checkpoint(out.parent / "checkpoint", _identity(job, self._stamp), job.checkpoint_every)
        starts_from = job.incumbent if planned.continues else None
        with lora.loaded(base, starts_from, True) if starts_from else lora.fresh(base, job.recipe) as adapted:
            trained = train(base, adapted, Material(rows, anchors), planned, self.report, checkpoint)
            clock.lap("train")
            after = self._probe_candidate(base, sequences, trained)
            clock.lap("probe_candidate")
            lora.save(adapted, job.base_model, out)
        metrics = {
            "loss": trained.loss,
            "steps": trained.steps,
            "epochs": trained.samples / len(rows),
            "samples": trained.samples,
            "examples": len(sequences),
            "anchors": len(anchors),
            "accuracy": sum(answer.right for answer in after) / len(after),
            "seconds": clock.laps,
        }
        return Finished(True, _probes(sequences, before, after), metrics, unusable)

    def base(self, reference: str) -> Base:
        """The base model, loaded anew when it is another one or its files have changed."""
        stamp = _stamp(reference)
        began = time.monotonic()
        if self._base is None or stamp != self._stamp:
            self.drop()
            with self.report.beating(f"loading {reference}"):
                self._base = asked(_load(reference))
            self._stamp = stamp
            seconds = time.monotonic() - began
        else:
            seconds = 0.0
        base = self._base
        self.report.emit(Loaded(str(base.folder), base.parameters, str(base.device), seconds, base.capability.why))
        return base

    def anchors(self, base: Base) -> list[Anchor]:
        """The base's own questions and answers, made up once."""
        if self._anchors is None:
            count = anchor_count(base.parameters, base.device.type)
            self._anchors = make_anchors(base, count, lambda: self.report.alive("making up anchors"))
        return self._anchors

    def drop(self) -> None:
        """Let go of the base model."""
        self._base, self._stamp, self._anchors = None, (), None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _probe_candidate(self, base: Base, sequences: Sequence[Encoded], trained: Trained) -> list[Answer]:
        """Every example's answer; what the loop has just asked is not asked again."""
        open_rows = [row for row in sequences if row.example.id not in trained.answers]
        answers = probe(base, open_rows, lambda: self.report.alive("probing the candidate"))
        known = trained.answers | {row.example.id: answer for row, answer in zip(open_rows, answers, strict=True)}
        return [known[row.example.id] for row in sequences]


class Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._since = time.monotonic()

    def lap(self, stage: str) -> None:
        """The time since the last lap was this stage's."""
        now = time.monotonic()
        self.laps[stage] = round(now - self._since, 3)
        self._since = now


def _load(reference: str) -> Base:
    try:
        return load_base(reference)
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        raise JobFailed(
            f"base model {reference} cannot be loaded: {first_line(error)}; base_model must name a folder with"
            " config.json, tokenizer and safetensors weights, or a model id of the hub that this machine can reach",
            # A network or a disk may be back in a while, and somebody may put another model there.
            True,
            True,
        ) from error


def _identity(job: Job, stamp: tuple[object, ...]) -> str:
    """What a training depends on, as one word: another attempt of the same run has the same."""
    same = replace(job, out="", attempt=0)
    return hashlib.sha256(f"{same.line()} {stamp} {torch.__version__}".encode()).hexdigest()


def _plan(job: Job, base: Base, rows: Sequence[Encoded]) -> Plan:
    width = base.model.get_input_embeddings().embedding_dim
    try:
        return plan(job.recipe, len(rows), cast(int, width))
    except ValueError as error:
        raise JobFailed(str(error), False) from error


def _stamp(reference: str) -> tuple[object, ...]:
    """What tells one state of a base model's files from another: names, sizes and times."""
    folder = Path(reference)
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return (reference, *((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()))


def _probes(sequences: Sequence[Encoded], before: list[Answer], after: list[Answer] | None = None) -> list[Probe]:
    return [
        Probe(row.example.id, row.example.group, before[at], after[at] if after else None)
        for at, row in enumerate(sequences)
    ]
