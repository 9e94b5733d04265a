"""From measurements to the rows of the table: medians, ratios, and whether a goal is met."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from scripts.benchmarks.training.plan import TRAITS
from scripts.benchmarks.training.session import Found
from scripts.benchmarks.training.settings import Measured, counted

WALL_GOALS = {"A": 15.0, "B": 3.0, "C": 8.0, "D": 8.0, "E": 20.0}
"""TRL's time over the engine's, in bf16."""
PEAK_GOAL = 0.5
"""The engine's peak memory over TRL's."""
FRACTION_GOALS = {"bf16": 0.4, "fp32": 0.65}
"""Of the machine's matrix rate, on the model of 120M."""
EACH = "E, a process each"
"""What nobody would do who has as many traits: shown, and not what the engine is measured by."""
PASSES = 4
"""Operations per parameter and token: two forward, two for the gradients of what is below; the weights have none."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing."""

    median: float
    low: float
    high: float
    count: int

    @staticmethod
    def of(values: Sequence[float]) -> "Spread | None":
        """None of nothing."""
        return Spread(median(values), min(values), max(values), len(values)) if values else None


@dataclass(frozen=True, slots=True)
class Goal:
    """A number beside what it should be; `wanted` is None where nobody asks for anything."""

    value: float
    wanted: float | None
    at_most: bool = False

    @property
    def met(self) -> bool | None:
        """Whether it is as wanted."""
        if self.wanted is None:
            return None
        return self.value <= self.wanted if self.at_most else self.value >= self.wanted


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a row; seconds, tokens per second, bytes."""

    wall: Spread
    cut: str
    """What was measured where the rest is reckoned from it, such as "2 steps"."""
    speed: float
    peak: float
    first: float | None
    final: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    label: str
    model: str
    dtype: str
    theirs: Side
    ours: Side | None
    wall: Goal | None
    peak: Goal | None
    fraction: Goal | None


def rows(found: Sequence[Found]) -> list[Row]:
    """The table, from all that was measured."""
    rates = matrix_rates(found)
    return [row for one in found for row in _rows(one, rates[one.cell.dtype].median)]


def matrix_rates(found: Sequence[Found]) -> dict[str, Spread]:
    """By dtype, over all looks at the machine."""
    seen: dict[str, list[float]] = {}
    for one in found:
        seen.setdefault(one.cell.dtype, []).extend(kept.measured.rate for kept in one.rates)
    return {dtype: Spread(median(rates), min(rates), max(rates), len(rates)) for dtype, rates in seen.items()}


def _rows(one: Found, rate: float) -> list[Row]:
    theirs, ours = ([kept.measured for kept in side] for side in (one.theirs, one.ours))
    if one.cell.workload != "E":
        return [_row(one, one.cell.workload, _side(theirs, "steps"), ours, rate)]
    whole = [_row(one, "E, one process", _side(theirs, "traits"), ours, rate)]
    crons = [kept.measured for kept in one.crons]
    return [*whole, _row(one, EACH, _crons(crons), ours, rate)]


def _row(one: Found, label: str, theirs: Side, measured: Sequence[Measured], rate: float) -> Row:
    cell = one.cell
    ours = _side(measured, "traits" if cell.workload == "E" else "steps") if measured else None
    judged = label != EACH
    wall_goal = WALL_GOALS[cell.workload] if judged and cell.dtype == "bf16" else None
    peaks = (ours.peak / theirs.peak) if ours and ours.peak and theirs.peak else None
    return Row(
        label,
        cell.model,
        cell.dtype,
        theirs,
        ours,
        wall=Goal(theirs.wall.median / ours.wall.median, wall_goal) if ours else None,
        peak=Goal(peaks, PEAK_GOAL if judged else None, at_most=True) if peaks else None,
        fraction=_fraction(one, measured, rate),
    )


def _side(measured: Sequence[Measured], unit: str) -> Side:
    wall = Spread.of([one.whole for one in measured])
    assert wall
    one = measured[0]
    return Side(
        wall,
        counted(one.steps, unit) if one.steps != one.of_steps else "",
        one.tokens / wall.median,
        median(one.peak for one in measured),
        one.first,
        median(one.final for one in measured if one.final is not None) if one.final is not None else None,
    )


def _crons(measured: Sequence[Measured]) -> Side:
    """A process per trait: nothing is shared, so all traits take what the measured ones take on average."""
    wall = Spread.of([one.wall * TRAITS for one in measured])
    assert wall
    peak = median(one.peak for one in measured)
    return Side(wall, counted(len(measured), "traits"), measured[0].tokens / wall.median, peak, None, None)


def _fraction(one: Found, ours: Sequence[Measured], rate: float) -> Goal | None:
    """What the distinct tokens' products would take at the machine's matrix rate, over what the training took."""
    if not ours or not ours[0].distinct:
        return None
    wall = median(measured.wall for measured in ours)
    wanted = FRACTION_GOALS[one.cell.dtype] if one.cell.model == "120M" else None
    return Goal(PASSES * ours[0].body * ours[0].distinct / wall / rate, wanted)
