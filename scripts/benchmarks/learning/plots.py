"""What the studies found, as pictures: the four measures over batches, what a batch costs, what the gate saw."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scripts.benchmarks.learning.report import MEASURES

Rows = Sequence[Mapping[str, Any]]
GOALS = {"efficacy": 0.98, "generality": 0.95, "retention": 0.98, "locality": 0.95}
"""What is aimed at after the last batch."""


def recipes(rows: Rows, folder: Path) -> list[Path]:
    """The four measures over batches, one picture per world: of several seeds the mean, and the least as a band."""
    made = []
    for world, theirs in _by("world", rows).items():
        figure, axes = pyplot.subplots(2, 2, figsize=(10, 6.4), sharex=True)
        for axis, measure in zip(axes.flat, MEASURES, strict=True):
            for name, group in _by("recipe", theirs).items():
                _line(axis, name, [(row["batch"], row[measure]) for row in group if row[measure] is not None])
            axis.axhline(GOALS[measure], color="grey", linewidth=0.8, linestyle=":")
            axis.set(title=measure, ylim=(-0.02, 1.02))
        for axis in axes[1]:
            axis.set(xlabel="batches of 20 corrections")
        axes[0, 0].legend(fontsize=7)
        made.append(_saved(figure, folder / f"recipes-{world}.png"))
    return made


def history(rows: Rows, folder: Path) -> list[Path]:
    """What a batch costs as its trait's history grows, and what is kept meanwhile; one picture per world."""
    made = []
    for world, theirs in _by("world", rows).items():
        figure, (cost, kept) = pyplot.subplots(1, 2, figsize=(10, 3.6))
        _line(cost, "all", [(row["batch"], row["seconds"]) for row in theirs])
        _line(cost, "training", [(row["batch"], row["stages"].get("train", 0.0)) for row in theirs])
        cost.set(xlabel="batches of 8 corrections", ylabel="seconds", ylim=(0, None))
        cost.legend(fontsize=8)
        for measure in MEASURES:
            _line(kept, measure, [(row["batch"], row[measure]) for row in theirs if row[measure] is not None])
        kept.set(xlabel="batches of 8 corrections", ylim=(-0.02, 1.02))
        kept.legend(fontsize=8)
        made.append(_saved(figure, folder / f"history-{world}.png"))
    return made


def gate(rows: Rows, folder: Path) -> list[Path]:
    """Of each candidate, by kind, the worst share that it loses of any measure, and what the gate did with it."""
    made = []
    for world, theirs in _by("world", rows).items():
        kinds = _by("kind", theirs)
        figure, axis = pyplot.subplots(figsize=(10, 0.45 * len(kinds) + 1.4))
        for at, group in enumerate(kinds.values()):
            for promoted, colour, mark in ((True, "tab:green", "o"), (False, "tab:red", "x")):
                shown = [row for row in group if row["promoted"] is promoted]
                heights = [at + 0.5 * ((number % 7) / 6 - 0.5) for number in range(len(shown))]
                axis.scatter([_worst(row["truth"]) for row in shown], heights, c=colour, marker=mark, s=18, linewidth=1)
        axis.set_yticks(range(len(kinds)), list(kinds))
        axis.set(xlabel="largest share lost of any measure, by the large probe set (green: promoted, red: rejected)")
        axis.set(xlim=(-0.02, 1.02))
        axis.invert_yaxis()
        made.append(_saved(figure, folder / f"gate-{world}.png"))
    return made


def _worst(truth: Mapping[str, Mapping[str, int]]) -> float:
    """The largest share that a candidate loses, or does not answer, of any measure."""
    lost = [
        truth[name]["lost"] / max(1, truth[name]["asked"])
        for name in ("retention", "kept", "affirmed", "critical", "locality")
    ]
    asked = [name for name in ("efficacy", "generality") if truth[name]["asked"]]
    missed = [1 - truth[name]["after"] / truth[name]["asked"] for name in asked]
    return max(*lost, *missed)


def _line(axis: Axes, name: str, points: Iterable[tuple[int, float]]) -> None:
    found: dict[int, list[float]] = {}
    for at, value in points:
        found.setdefault(at, []).append(value)
    if found:
        batches = sorted(found)
        drawn = axis.plot(batches, [sum(found[at]) / len(found[at]) for at in batches], label=name, linewidth=1.4)
        least = [min(found[at]) for at in batches]
        axis.fill_between(batches, least, [max(found[at]) for at in batches], color=drawn[0].get_color(), alpha=0.15)


def _by(key: str, rows: Rows) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row[key], []).append(row)
    return found


def _saved(figure: Figure, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
    return file
