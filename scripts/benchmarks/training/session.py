"""Runs tasks in processes of their own, one at a time, and says so while it does."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from scripts.benchmarks.training import models, plan
from scripts.benchmarks.training.bank import Bank, Kept
from scripts.benchmarks.training.plan import Cell, Effort
from scripts.benchmarks.training.settings import Measured, Task, counted

ENVIRONMENT = {
    # Threads that wait by spinning slow each other where cores are shared; both sides wait in the same way.
    "GOMP_SPINCOUNT": "2000",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TQDM_DISABLE": "1",
}
PACKAGE = __package__ or ""
LAST = 15
"""Lines of a broken process's output that are shown."""


class Broken(Exception):
    """A process did not measure what it should; the sentence shows what it last said."""


@dataclass(frozen=True, slots=True)
class Found:
    """All that was measured for a row."""

    cell: Cell
    rates: list[Kept]
    """The machine's matrix rate, looked at before each training of the engine: others may use the machine too."""
    trials: dict[str, Kept]
    """By variant."""
    variant: str
    """TRL's fastest."""
    theirs: list[Kept]
    ours: list[Kept]
    """Empty where the engine has not the objective."""
    crons: list[Kept] = field(default_factory=list)


class Session:
    """Measures rows; what the bank has is not measured again."""

    def __init__(self, root: Path, bank: Bank, pythons: dict[str, Path], threads: int, effort: Effort) -> None:
        self._root, self._bank, self._pythons = root, bank, pythons
        self._threads, self._effort = threads, effort

    def measure(self, cell: Cell, where: str) -> Found:
        """One row: the machine, TRL's best settings, then both sides in turn."""
        kept = partial(self._kept, where=where)
        trials = {task.variant: kept(task) for task in plan.trials(cell, self._threads, self._effort.quick)}
        variant = min(trials, key=lambda name: trials[name].measured.whole)
        theirs, ours, rates = self._in_turn(cell, variant, kept)
        crons = [kept(task) for task in plan.cron_trainings(cell, self._threads, variant, self._effort)]
        return Found(cell, rates, trials, variant, theirs, ours, crons)

    def _in_turn(self, cell: Cell, variant: str, kept: Callable[[Task], Kept]) -> tuple[list[Kept], ...]:
        """TRL's trainings and the engine's, and the machine's rates between them."""
        their_task = plan.their_training(cell, self._threads, variant, self._effort)
        our_task = plan.our_training(cell, self._threads, self._effort)
        their_times = self._effort.theirs(cell)
        our_times = self._effort.ours(cell)
        theirs, ours, rates = list[Kept](), list[Kept](), list[Kept]()
        for repeat in range(max(their_times, our_times)):
            if repeat < their_times:
                theirs.append(kept(their_task.again(repeat)))
            rates.append(kept(plan.rate(cell, self._threads).again(repeat)))
            if repeat < our_times:
                ours.append(kept(our_task.again(repeat)))
        return theirs, ours, rates

    def _kept(self, task: Task, where: str) -> Kept:
        known = self._bank.find(task)
        if known:
            return known
        model = self._model(task.model) if task.side != "rate" else Path()
        with said(f"{where} {_says(task)}"):
            return self._bank.keep(task, self._run(task, model))

    def _run(self, task: Task, model: Path) -> Measured:
        module = {"trl": "theirs", "rate": "gauge", "ours": "child" if task.workload == "E" else "ours"}[task.side]
        with TemporaryDirectory() as folder:
            result = Path(folder) / "result.json"
            arguments = [task.line(), result, model, repr(time.monotonic())]
            self._process(self._pythons[task.side], module, arguments, task.threads)
            return Measured.read(result)

    def _model(self, name: str) -> Path:
        """The folder of a model with random weights, written first when it is not there."""

        def make(name: str, folder: Path) -> None:
            with said(f"making up the model of {name}"):
                self._process(self._pythons["ours"], "models", [name, folder], self._threads)

        return models.ready(name, self._root / ".cache" / "bench" / "models", make)

    def _process(self, python: Path, module: str, arguments: list[object], threads: int) -> None:
        """Run a module of this package to its end; raises Broken."""
        done = subprocess.run(
            [python, "-m", f"{PACKAGE}.{module}", *map(str, arguments)],
            cwd=self._root,
            env=os.environ | ENVIRONMENT | {"OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            last = "\n".join(done.stdout.splitlines()[-LAST:])
            raise Broken(f"{module} left with {done.returncode} at {arguments[0]}; it last said:\n{last}")


def say(what: str) -> None:
    """A line on standard error, with the time."""
    print(f"{time.strftime('%H:%M:%S')}  {what}", file=sys.stderr, flush=True)


@contextmanager
def said(what: str) -> Iterator[None]:
    """A line on standard error: what runs, and at its end how long it took."""
    began = time.monotonic()
    print(f"{time.strftime('%H:%M:%S')}  {what} ...", end="", file=sys.stderr, flush=True)
    try:
        yield
    except BaseException:
        print(file=sys.stderr)
        raise
    print(f" {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)


def _says(task: Task) -> str:
    """A task in words."""
    if task.side == "rate":
        return "the machine's matrix rate"
    side = {"trl": f"TRL, {task.variant}", "ours": "the engine"}[task.side]
    cut = f", {counted(task.steps, 'steps')}" if task.steps else ""
    many = f", {counted(task.traits, 'traits')}" if task.workload == "E" else ""
    return f"{task.workload} {task.model} {task.dtype}: {side}{cut}{many}, run {task.repeat + 1}"
