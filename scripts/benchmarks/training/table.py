"""The rows as text: aligned columns that fit a terminal, what was measured above, how TRL was run below."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scripts.benchmarks.training.rows import Goal, Row, Side, Spread

NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Column:
    """A heading of two lines, and what stands below it."""

    over: str
    head: str
    cell: Callable[[Row], str]


def render(rows: Sequence[Row]) -> str:
    """Two blocks with the same rows: time, then memory and loss."""
    return f"{_block(rows, _TIME)}\n\n{_block(rows, _REST)}"


def align(lines: Sequence[Sequence[str]], left: int) -> str:
    """Lines of cells under each other; the first `left` columns are flush left, the others right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def goal(found: Goal | None) -> str:
    """A ratio, what it should be, and whether it is."""
    if found is None:
        return NOTHING
    number = f"{found.value:.1f}" if found.value >= 3 else f"{found.value:.2f}"
    if found.wanted is None:
        return number
    return f"{number} ({'≤' if found.at_most else '≥'} {found.wanted:g} {'✓' if found.met else '✗'})"


def seconds(spread: Spread, cut: str) -> str:
    """A median with least and most; what is reckoned from a part is marked as such."""
    number = _digits(spread.median)
    if cut:
        number = f"~{number}"
    return number if spread.count == 1 else f"{number} ({_digits(spread.low)}–{_digits(spread.high)})"


def _block(rows: Sequence[Row], columns: Sequence[Column]) -> str:
    every = [*_NAMES, *columns]
    lines = [[column.over for column in every], [column.head for column in every]]
    lines += [[column.cell(row) for column in every] for row in rows]
    text = align(lines, len(_NAMES)).split("\n")
    rule = "─" * max(map(len, text))
    return "\n".join([*text[:2], rule, *text[2:]])


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _wall(side: Side | None) -> str:
    return seconds(side.wall, side.cut) if side else NOTHING


def _speed(side: Side | None) -> str:
    return f"{side.speed:,.0f}" if side else NOTHING


def _peak(side: Side | None) -> str:
    return f"{side.peak / 1e6:,.0f}" if side and side.peak else NOTHING


def _loss(side: Side | None) -> str:
    if side is None or side.first is None:
        return NOTHING
    final = NOTHING if side.final is None else f"{side.final:.4f}"
    return f"{side.first:.4f} → {final}"


_NAMES = [
    Column("", "workload", lambda row: row.label),
    Column("", "model", lambda row: row.model),
    Column("", "dtype", lambda row: row.dtype),
]
_TIME = [
    Column("wall, s", "TRL", lambda row: _wall(row.theirs)),
    Column("", "engine", lambda row: _wall(row.ours)),
    Column("TRL /", "engine", lambda row: goal(row.wall)),
    Column("tokens/s", "TRL", lambda row: _speed(row.theirs)),
    Column("", "engine", lambda row: _speed(row.ours)),
    Column("of the", "matrix rate", lambda row: goal(row.fraction)),
]
_REST = [
    Column("peak, MB", "TRL", lambda row: _peak(row.theirs)),
    Column("", "engine", lambda row: _peak(row.ours)),
    Column("engine /", "TRL", lambda row: goal(row.peak)),
    Column("loss", "TRL", lambda row: _loss(row.theirs)),
    Column("", "engine", lambda row: _loss(row.ours)),
]
