"""`python -m scripts.world demo|test`: builds the base model of a preset and says where it is."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from scripts.world.base import about_base, ensure_base
from scripts.world.pretrain import PRESETS, Progress

PLAIN_EVERY = 20


def main() -> int:
    """0 when the base is there; 130 when it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m scripts.world", description=__doc__)
    parser.add_argument("preset", choices=sorted(PRESETS))
    parser.add_argument("--cache", type=Path, help="folder to build in (default: .cache, or PERSONA_CACHE)")
    options = parser.parse_args()
    console = Console()
    try:
        folder = build(options.preset, options.cache, console)
    except KeyboardInterrupt:
        console.print("Interrupted; nothing was kept.")
        return 130
    console.print(about_base(folder), soft_wrap=True)
    console.print(str(folder), soft_wrap=True, highlight=False)
    return 0


def build(preset: str, cache: Path | None, console: Console) -> Path:
    """The preset's folder, with progress shown while it is built for the first time."""
    if not console.is_terminal:
        return ensure_base(preset, cache, _plain)
    columns = (
        TextColumn("learning the {task.fields[name]} world"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[says]}"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console) as bar:
        return ensure_base(preset, cache, _drawn(bar, preset))


def _drawn(bar: Bar, preset: str) -> Callable[[Progress], None]:
    # Drawn from the first step on: what is in the cache has none.
    task = bar.add_task("", name=preset, total=PRESETS[preset].steps, says="", visible=False)

    def draw(now: Progress) -> None:
        bar.update(task, completed=now.step, total=now.steps, says=_says(now), visible=True)

    return draw


def _says(now: Progress) -> str:
    """The loss, and what was answered when the model was last asked, which is in the later steps only."""
    return f"loss {now.loss:.3f}" + (f", answered {now.accuracy:.0%} when last asked" if now.accuracy else "")


def _plain(now: Progress) -> None:
    if now.step % PLAIN_EVERY == 0 or now.step == now.steps:
        print(f"step {now.step}/{now.steps}  {_says(now)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
