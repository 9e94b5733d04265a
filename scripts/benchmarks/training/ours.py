"""The engine's side, in a warm process: `python -m scripts.benchmarks.training.ours TASK RESULT MODEL`.

Needs torch, transformers, peft and safetensors, and of the daemon nothing but its engine.
"""

import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch

from daemon.training.engine import lora
from daemon.training.engine.base import load_base
from daemon.training.engine.batches import Encoded
from daemon.training.engine.course import Course
from daemon.training.engine.job import Example, Group
from daemon.training.engine.loop import Material, train
from daemon.training.engine.packing.capability import examined
from daemon.training.engine.policy import plan
from daemon.training.engine.report import Reporter
from scripts.benchmarks.training.gauge import peak, seconds
from scripts.benchmarks.training.judge import Judge
from scripts.benchmarks.training.models import SHAPES, torch_dtype
from scripts.benchmarks.training.recipes import recipe
from scripts.benchmarks.training.settings import Measured, Task
from scripts.benchmarks.training.workloads import Correction, distinct, nominal, workload


def main() -> None:
    """Do the task of the first argument, leave the result at the second."""
    task, folder = Task.parse(sys.argv[1]), Path(sys.argv[3])
    torch.set_num_threads(task.threads)
    # As the trainer child does.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    with TemporaryDirectory() as out:
        measure(task, folder, Path(out)).write(Path(sys.argv[2]))


def measure(task: Task, folder: Path, out: Path) -> Measured:
    """One training of the one trait of a workload."""
    work = workload(task.workload)
    corrections = work.traits[0]
    judge = Judge(folder, task.dtype, work.objective)
    first = judge.first(corrections)
    base = examined(load_base(str(folder), torch_dtype(task.dtype)))
    rows = [_encoded(at, correction) for at, correction in enumerate(corrections)]
    told = recipe(work.objective)
    planned = plan(told, len(rows), SHAPES[task.model].hidden)
    with lora.fresh(base, told) as adapted, _drawn() as minibatches:
        report = Reporter(io.StringIO())
        began = seconds()
        train(base, adapted, Material(rows), planned, report)
        wall, most = seconds() - began, peak()
        lora.save(adapted, str(folder), out / "adapter")
    return Measured(
        wall=wall,
        steps=planned.steps,
        of_steps=planned.steps,
        tokens=nominal(corrections),
        distinct=sum(distinct(_sequences(corrections, drawn)) for drawn in minibatches),
        peak=most,
        first=first,
        final=judge.final(out / "adapter", corrections),
        body=SHAPES[task.model].body,
    )


def _encoded(at: int, correction: Correction) -> Encoded:
    answer, *rejected = correction.answers
    example = Example(str(at), [], "", "", 1.0, Group.BATCH)
    return Encoded(example, correction.prompt, answer, rejected[0] if rejected else [])


def _sequences(corrections: Sequence[Correction], drawn: Sequence[int]) -> list[list[int]]:
    """What a minibatch has to compute; the last token of a sequence predicts nothing."""
    return [sequence[:-1] for at in drawn for sequence in corrections[at].sequences]


@contextmanager
def _drawn() -> Iterator[list[list[int]]]:
    """The minibatches of the training inside, as they were drawn: which rows."""
    drawn: list[list[int]] = []
    draw = Course.draw

    def recorded(course: Course) -> tuple[list[int], list[int]]:
        rows, anchors = draw(course)
        drawn.append(rows)
        return rows, anchors

    with patch.object(Course, "draw", recorded):
        yield drawn


if __name__ == "__main__":
    main()
