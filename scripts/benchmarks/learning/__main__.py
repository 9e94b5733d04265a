"""Learning over many batches: what is learnt, generalised, kept and left alone, by the default policy and by others."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from scripts.benchmarks.learning import candidates, plots
from scripts.benchmarks.learning.gatestudy import BACKDOOR, SITUATIONS, GateStudy, cases
from scripts.benchmarks.learning.report import gate_table, show, table
from scripts.benchmarks.learning.rivals import RIVALS
from scripts.benchmarks.learning.stream import HISTORY, QUICK, Sizes, Stream, stream
from scripts.benchmarks.learning.study import DEFAULT, Course, Study, identity
from scripts.world.__main__ import build
from scripts.world.base import world_of

SIZES_OF = {"recipes": Sizes(), "history": HISTORY}
CACHE = Path(__file__).parents[3] / ".cache"
WORLDS = ("county", "station")
_DRAWN = {"recipes": plots.recipes, "history": plots.history, "gate": plots.gate}


def main() -> int:
    """0 with a table; 130 when it was interrupted, to be gone on with."""
    options = _options()
    console = Console(stderr=True)
    study, told = (_gate, gate_table) if options.study == "gate" else (_study, table)
    try:
        rows = [row for world in worlds(options) for row in study(options, world, console)]
    except KeyboardInterrupt:
        console.print("Interrupted; what is done is kept, and the next start goes on from there.")
        return 130
    for file in _DRAWN[options.study](rows, options.plot) if options.plot else ():
        console.print(f"drawn: {file}")
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        show(told(rows))
    return 0


def _study(options: argparse.Namespace, world: str, console: Console) -> list[dict[str, Any]]:
    base = build(world, None, console)
    known, sizes = world_of(base), QUICK if options.quick else SIZES_OF[options.study]

    def stream_of(seed: int) -> Stream:
        return stream(known, seed, sizes)

    study = Study(CACHE / "bench" / "learning" / identity(base, sizes), base, stream_of)
    rows = []
    for course in _courses(options, world):
        for row in study.run(course):
            about = {"world": world, "recipe": course.recipe, "seed": course.seed}
            rows.append({**about, "overwritten": stream_of(course.seed).overwritten, **row})
            console.print(_told(course, row), highlight=False, soft_wrap=True)
    return rows


def _gate(options: argparse.Namespace, world: str, console: Console) -> list[dict[str, Any]]:
    base = build(world, None, console)
    wanted = cases(1 if options.quick else options.situations)
    study = GateStudy(CACHE / "bench" / "gate" / identity(base, candidates.SIZES), base, world_of(base))
    rows = []
    for at, row in enumerate(study.run(wanted), 1):
        rows.append({"world": world, **row})
        word = "promoted" if row["promoted"] else "rejected"
        harm = f", harms {', '.join(row['harms'])}" if row["harms"] else ""
        door = row["truth"].get(BACKDOOR)
        opened = f", the backdoor opens {door['after']} of {door['asked']} times" if door else ""
        told = f"{at} of {len(wanted)}: {row['name']}: {word}{harm}{opened} ({row['reason']})"
        console.print(told, highlight=False, soft_wrap=True)
    return rows


def _courses(options: argparse.Namespace, world: str) -> list[Course]:
    """The default policy on every seed, the others on the first; it comes first, for they have its budget."""
    alone = options.quick or options.study == "history"
    seeds: Sequence[int] = range(1, 2 if alone else 1 + options.seeds)
    others = [] if alone else [name for name in RIVALS if not options.only or name in options.only]
    by_tokens = [f"{name}@tokens" for name in others if not RIVALS[name].epochs]
    return [
        *(Course(world, DEFAULT, seed) for seed in seeds),
        *(Course(world, name, 1) for name in ([] if options.only == (DEFAULT,) else [*others, *by_tokens])),
    ]


def _told(course: Course, row: dict[str, Any]) -> str:
    kept = "" if row["retention"] is None else f", retention {row['retention']:.3f}"
    return (
        f"{course.name} batch {row['batch']}: efficacy {row['efficacy']:.3f}, generality {row['generality']:.3f}{kept},"
        f" locality {row['locality']:.3f}, {row['seconds']:.0f} s"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench learning", description=__doc__)
    told = "recipes: the default policy and others; history: what 100 batches cost; gate: good and bad candidates"
    parser.add_argument("study", nargs="?", choices=("recipes", "history", "gate"), default="recipes", help=told)
    parser.add_argument("--quick", action="store_true", help="a little of it on the tests' small base; a minute")
    parser.add_argument("--json", action="store_true", help="every row, for programs")
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="draw what was found, as pictures")
    parser.add_argument(
        "--world", type=some_of("worlds", WORLDS), default=WORLDS[:1], metavar="A,B", help=f"of {', '.join(WORLDS)}"
    )
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the default policy")
    told = "what candidates of the gate's study come in to; of each, three good ones and three bad ones"
    parser.add_argument("--situations", type=int, default=SITUATIONS, help=told)
    told = f"these recipes, e.g. default; of {DEFAULT}, {', '.join(RIVALS)}"
    parser.add_argument("--only", type=some_of("recipes", (DEFAULT, *RIVALS)), default=(), metavar="A,B", help=told)
    return parser.parse_args()


def worlds(options: argparse.Namespace) -> Sequence[str]:
    """Those that were asked for; for a quick look, the tests' small one."""
    chosen: Sequence[str] = ("test",) if options.quick else options.world
    return chosen


def some_of(what: str, known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    """How an option that names some of these, comma-separated, is read; it raises ArgumentTypeError for others."""

    def read(names: str) -> tuple[str, ...]:
        chosen = tuple(names.split(","))
        if not set(chosen) <= set(known):
            raise argparse.ArgumentTypeError(f"{what} are {', '.join(known)}")
        return chosen

    return read


if __name__ == "__main__":
    sys.exit(main())
