"""The table of a study: where each recipe stands after the first, the fifth and the last batch."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

MEASURES = ("efficacy", "generality", "retention", "locality")
COSTS = ("seconds", "steps", "tokens")
AFTER = (1, 5, 20)
_WIDE = 140
"""Characters that any of the tables here fits in."""


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line per world, recipe and batch; of several seeds the mean, and the least."""
    found: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["world"], row["recipe"], row["batch"]), []).append(row)
    last = {key[:2]: max(batch for *names, batch in found if tuple(names) == key[:2]) for key in found}
    made = Table("world", "recipe", "after", "seeds", *MEASURES, *COSTS, header_style="bold")
    overwritten = {row["world"]: row["overwritten"] for row in rows}
    made.caption = "; ".join(
        f"in the end {share:.0%} of {world}'s facts are overwritten" for world, share in overwritten.items()
    )
    for (world, recipe, batch), group in found.items():
        if batch in AFTER or batch == last[world, recipe]:
            shares = [_share([row[measure] for row in group]) for measure in MEASURES]
            costs = [_mean([row.get(cost) for row in group]) for cost in COSTS]
            made.add_row(world, recipe, str(batch), str(len(group)), *shares, *costs)
    return made


def gate_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """One line per kind of candidate: how many there are, how many do harm, and what the gate did with them."""
    made = Table("candidates", "made", "promoted", "do harm", "of these promoted", header_style="bold")
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(row["kind"], []).append(row)
    for kind, group in kinds.items():
        harmful = [row for row in group if row["harms"]]
        promoted = [sum(row["promoted"] for row in each) for each in (group, harmful)]
        made.add_row(kind, str(len(group)), str(promoted[0]), str(len(harmful)), str(promoted[1]))
    return made


def show(made: Table) -> None:
    """Print a table; whole into a file, which has no width."""
    console = Console()
    if not console.is_terminal:
        console.width = _WIDE
    console.print(made)


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):,.0f}" if known else "–"


def _share(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{sum(known) / len(known):.3f}"
    return mean if len(known) == 1 else f"{mean} (≥ {min(known):.3f})"
