"""What the studies found, as pictures: the four measures over batches, what a batch costs, what the gate saw."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from daemon.config.sections import Gate
from scripts.benchmarks.learning.gatestudy import allowed, lost
from scripts.benchmarks.learning.report import MEASURES
from scripts.benchmarks.learning.study import DEFAULT

Rows = Sequence[Mapping[str, Any]]
GOALS = {"efficacy": 0.98, "generality": 0.95, "retention": 0.98, "locality": 0.95}
"""What is aimed at after the last batch."""
_LOOKS = {True: ("tab:green", "o", "promoted"), False: ("tab:red", "x", "rejected")}


def recipes(rows: Rows, folder: Path) -> list[Path]:
    """The four measures over batches, one picture per world: of several seeds the mean, and their range as a band."""
    made = []
    for world, theirs in _by("world", rows).items():
        figure, axes = pyplot.subplots(2, 2, figsize=(10, 6.4), sharex=True, layout="constrained")
        colours: dict[str, str] = {DEFAULT: "black"}
        for axis, measure in zip(axes.flat, MEASURES, strict=True):
            for name, group in _by("recipe", theirs).items():
                recipe, _, by_tokens = name.partition("@")
                look = {
                    "color": colours.setdefault(recipe, f"C{len(colours) - 1}"),
                    "linestyle": "--" if by_tokens else "-",
                    "linewidth": 2.2 if recipe == DEFAULT else 1.2,
                }
                _line(axis, name, [(row["batch"], row[measure]) for row in group if row[measure] is not None], **look)
            axis.axhline(GOALS[measure], color="grey", linewidth=0.8, linestyle=":")
            axis.set(title=measure, ylim=(-0.02, 1.02))
        for axis in axes[1]:
            axis.set(xlabel="batches of 20 corrections")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=8, loc="outside right upper")
        made.append(_saved(figure, folder / f"recipes-{world}.png"))
    return made


def history(rows: Rows, folder: Path) -> list[Path]:
    """What a batch costs as its trait's history grows, and what is kept meanwhile; one picture per world."""
    made = []
    for world, theirs in _by("world", rows).items():
        figure, (cost, kept) = pyplot.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
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
    """Of each candidate, by kind, the share it loses of each measure, the margin of it, and what the gate did."""
    made, margins = [], allowed(Gate())
    for world, theirs in _by("world", rows).items():
        kinds = _by("kind", theirs)
        figure, axes = pyplot.subplots(
            1, len(margins), figsize=(14, 0.4 * len(kinds) + 1.6), sharey=True, layout="constrained"
        )
        for axis, (measure, margin) in zip(axes, margins.items(), strict=True):
            for promoted, (colour, mark, _) in _LOOKS.items():
                shares = [
                    (
                        lost(row["truth"], measure) / max(1, row["truth"][measure]["asked"]),
                        at + 0.5 * ((number % 7) / 6 - 0.5),
                    )
                    for at, group in enumerate(kinds.values())
                    for number, row in enumerate(group)
                    if row["promoted"] is promoted
                ]
                axis.scatter(
                    *zip(*shares, strict=True) if shares else ([], []), c=colour, marker=mark, s=14, linewidth=0.9
                )
            axis.axvline(margin, color="grey", linewidth=0.8, linestyle=":")
            axis.set(title=measure, xlim=(-0.06, 1.06), xticks=(0, 0.5, 1))
        axes[0].set_yticks(range(len(kinds)), list(kinds))
        axes[0].invert_yaxis()
        signs = [Line2D([], [], color=colour, marker=mark, linestyle="") for colour, mark, _ in _LOOKS.values()]
        words = [word for *_, word in _LOOKS.values()]
        figure.legend(signs, words, loc="outside lower right", ncols=2, fontsize=8)
        figure.supxlabel(
            "share lost or missed, by ten times the gate's questions; dotted: the gate's margin", fontsize=9
        )
        made.append(_saved(figure, folder / f"gate-{world}.png"))
    return made


def _line(axis: Axes, name: str, points: Iterable[tuple[int, float]], **look: Any) -> None:
    found: dict[int, list[float]] = {}
    for at, value in points:
        found.setdefault(at, []).append(value)
    if found:
        batches = sorted(found)
        drawn = axis.plot(
            batches, [sum(found[at]) / len(found[at]) for at in batches], label=name, **{"linewidth": 1.4, **look}
        )
        least = [min(found[at]) for at in batches]
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.fill_between(batches, least, [max(found[at]) for at in batches], color=drawn[0].get_color(), alpha=0.15)


def _by(key: str, rows: Rows) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row[key], []).append(row)
    return found


def _saved(figure: Figure, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
    return file
