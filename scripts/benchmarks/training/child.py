"""E on the engine's side: `python -m scripts.benchmarks.training.child TASK RESULT MODEL`.

The trainer child as the daemon starts it, a job line for each trait, the next one when the last is done.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from daemon.training.engine.job import Event, Failed, Finished, Job, Loaded, parse_event
from scripts.benchmarks.training.recipes import examples, recipe
from scripts.benchmarks.training.settings import Measured, Task
from scripts.benchmarks.training.workloads import Correction, nominal, workload


class Broken(Exception):
    """The child did not do its job; the sentence says why."""


@dataclass(frozen=True, slots=True)
class Heard:
    """When the child had its base model, by the monotonic clock, and where."""

    at: float
    device: str


def main() -> None:
    """Do the task of the first argument, leave the result at the second."""
    task, folder = Task.parse(sys.argv[1]), Path(sys.argv[3])
    every = workload(task.workload).traits
    traits = every[task.first : task.first + task.traits]
    heard = []
    with TemporaryDirectory() as out:
        began = time.monotonic()
        with _child() as child:
            for at, corrections in enumerate(traits):
                _hand_over(child, _job(at, corrections, task, folder, Path(out)))
                heard.append(_hear_out(child))
            ended = time.monotonic()
            resident = _leave(child)
        first, final = _losses(task, folder, traits, Path(out)) if traits == every else (None, None)
    Measured(
        wall=ended - began,
        constant=heard[0].at - began,
        steps=len(traits),
        of_steps=len(every),
        tokens=sum(map(nominal, every)),
        # What a child takes of a GPU cannot be seen from outside.
        peak=resident if heard[0].device == "cpu" else 0,
        first=first,
        final=final,
    ).write(Path(sys.argv[2]))


@contextmanager
def _child() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "daemon.training.engine", "--parent", str(os.getpid())]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def _job(at: int, corrections: Sequence[Correction], task: Task, folder: Path, out: Path) -> Job:
    told, where = recipe("sft"), str(out / str(at))
    return Job(str(at), 1, str(folder), examples(corrections), told, where, threads=task.threads)


def _hand_over(child: "subprocess.Popen[str]", job: Job) -> None:
    assert child.stdin is not None
    child.stdin.write(job.line() + "\n")
    child.stdin.flush()


def _hear_out(child: "subprocess.Popen[str]") -> Heard:
    """All that the child says of one job; raises Broken when it fails or leaves."""
    assert child.stdout is not None
    heard = None
    for line in child.stdout:
        event: Event = parse_event(line)
        if isinstance(event, Loaded):
            heard = Heard(time.monotonic(), event.device)
        if isinstance(event, Failed):
            raise Broken(event.reason)
        if isinstance(event, Finished) and heard:
            if not event.trained or event.unusable:
                raise Broken(f"the engine left something untrained: {event.unusable or 'it knew every answer'}")
            return heard
    raise Broken("the trainer child left before it had finished")


def _leave(child: "subprocess.Popen[str]") -> int:
    """End the child's input and see it off; the most bytes that were resident in it."""
    assert child.stdin is not None
    child.stdin.close()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss * 1024


def _losses(
    task: Task, folder: Path, traits: Sequence[Sequence[Correction]], adapters: Path
) -> tuple[float | None, float | None]:
    # Only now: what is imported here must not slow the child down, nor count as its.
    from scripts.benchmarks.training.judge import Judge

    return Judge(folder, task.dtype, "sft").traits(traits, adapters)


if __name__ == "__main__":
    main()
