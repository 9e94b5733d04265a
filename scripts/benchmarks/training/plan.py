"""What is measured, in which order, how often."""

from collections.abc import Sequence
from dataclasses import dataclass

from scripts.benchmarks.training.settings import Task, variants
from scripts.benchmarks.training.workloads import NAMES, workload

TUNED = 2
"""Optimizer steps of TRL by which its settings are chosen, and from which a quick run reckons the whole."""
QUICK = 2
"""How many of TRL's settings a quick run tries."""
TRAITS, FEW = 40, 3
"""Of E; a quick run trains few."""
CRONS = (0, 13, 26)


@dataclass(frozen=True, slots=True)
class Cell:
    """One row: a workload on a model in a dtype."""

    workload: str
    model: str
    dtype: str


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured; `steps` 0 lets TRL train to the end."""

    quick: bool

    def theirs(self, cell: Cell) -> int:
        """How often TRL trains: once where it takes a quarter of an hour, or where no ratio is asked for."""
        return 1 if self.quick or cell.workload == "E" or cell.dtype == "fp32" else 2

    def ours(self, cell: Cell) -> int:
        """How often the engine trains."""
        return 2 if self.quick or cell.workload == "E" else 3

    @property
    def steps(self) -> int:
        """How many steps TRL takes."""
        return TUNED if self.quick else 0

    @property
    def traits(self) -> int:
        """How many traits of E one process trains."""
        return FEW if self.quick else TRAITS

    @property
    def crons(self) -> tuple[int, ...]:
        """Which traits of E are trained by a process of their own."""
        return CRONS[:1] if self.quick else CRONS


def cells(cuda: bool, quick: bool, only: Sequence[str] = (), dtypes: Sequence[str] = ()) -> list[Cell]:
    """The rows, those with goals first; a GPU has one model and one dtype."""
    if cuda:
        found = [Cell(name, "1B", "bf16") for name in NAMES]
    else:
        found = [Cell(name, "34M", "bf16") for name in "ABCD"]
        found += [Cell("A", "120M", "bf16"), Cell("E", "34M", "bf16")]
        found += [Cell(name, "34M", "fp32") for name in "ABCD"]
        found += [Cell("A", "120M", "fp32")]
    if quick:
        found = [cell for cell in found if cell.model != "120M"]
    wanted = only or ("AB" if quick else NAMES)
    kinds = dtypes or (("bf16",) if quick else ("bf16", "fp32"))
    return [cell for cell in found if cell.workload in wanted and cell.dtype in kinds]


def trials(cell: Cell, threads: int, quick: bool) -> list[Task]:
    """Two steps of TRL for each of its settings; the model of 34M speaks for the larger one, A for E.

    A quick run leaves out those that a CPU is slow with.
    """
    name = "A" if cell.workload == "E" else cell.workload
    model = "34M" if cell.model == "120M" else cell.model
    tried = variants(workload(name).objective, cell.dtype)[: QUICK if quick else None]
    return [Task("trl", name, model, cell.dtype, threads, variant.name, TUNED) for variant in tried]


def their_training(cell: Cell, threads: int, variant: str, effort: Effort) -> Task:
    """The training that TRL does for a row."""
    if cell.workload == "E":
        return Task("trl", "E", cell.model, cell.dtype, threads, variant, traits=effort.traits)
    return Task("trl", cell.workload, cell.model, cell.dtype, threads, variant, effort.steps)


def our_training(cell: Cell, threads: int, effort: Effort) -> Task:
    """The training that the engine does for a row."""
    traits = effort.traits if cell.workload == "E" else 1
    return Task("ours", cell.workload, cell.model, cell.dtype, threads, traits=traits)


def cron_trainings(cell: Cell, threads: int, variant: str, effort: Effort) -> list[Task]:
    """E as a cron job would do it, a process per trait, for a few of the traits."""
    if cell.workload != "E":
        return []
    return [Task("trl", "E", cell.model, cell.dtype, threads, variant, first=first) for first in effort.crons]


def rate(cell: Cell, threads: int) -> Task:
    """The machine's matrix rate, in the row's dtype."""
    return Task("rate", cell.workload, cell.model, cell.dtype, threads)
