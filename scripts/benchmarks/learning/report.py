"""The table of a study: where each recipe stands after the first, the fifth and the last batch."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

MEASURES = ("efficacy", "generality", "retention", "locality")
AFTER = (1, 5, 20)


def table(rows: Iterable[Mapping[str, Any]]) -> Table:
    """One line per world, recipe and batch; of several seeds the mean, and the least."""
    found: dict[tuple[str, str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["world"], row["recipe"], row["batch"]), []).append(row)
    last = {key[:2]: max(batch for *names, batch in found if tuple(names) == key[:2]) for key in found}
    made = Table("world", "recipe", "after", "seeds", *MEASURES, "seconds", header_style="bold")
    for (world, recipe, batch), group in found.items():
        if batch in AFTER or batch == last[world, recipe]:
            shares = [_share([row[measure] for row in group]) for measure in MEASURES]
            seconds = sum(row["seconds"] for row in group) / len(group)
            made.add_row(world, recipe, str(batch), str(len(group)), *shares, f"{seconds:.0f}")
    return made


def _share(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    mean = f"{sum(known) / len(known):.3f}"
    return mean if len(known) == 1 else f"{mean} (≥ {min(known):.3f})"
