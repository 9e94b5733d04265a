"""The learning study's first batches through the product: corrections written, a daemon, a server that is asked."""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
from rich.console import Console

from daemon.config.sections import Triggers
from scripts.benchmarks.latency import at, written
from scripts.benchmarks.learning.__main__ import WORLDS, some_of, worlds
from scripts.benchmarks.learning.measure import asked, share
from scripts.benchmarks.learning.report import MEASURES, show, table
from scripts.benchmarks.learning.stream import QUICK, Sizes, Stream, stream
from scripts.processes import configured, running
from scripts.world.__main__ import build
from scripts.world.base import world_of

SMALL = replace(QUICK, size=Triggers().min_corrections)
"""Fewer would wait for more."""
ASKED_AT_ONCE = 4
LEARNT_S = 3600.0
"""The longest that a batch may take to be served, where others keep the machine busy."""
ENDS = ("runtime.converged", "run.rejected", "run.failed")
"""What a batch comes to."""
Ask = Callable[[Sequence[tuple[str, str]]], list[str]]
"""What each model answers to its question."""


def main() -> int:
    """0 with a table, be it of a batch that the gate refused."""
    options = _options()
    console = Console(stderr=True, highlight=False)
    rows = []
    for world in worlds(options):
        base = build(world, None, console)
        made = stream(world_of(base), options.seed, SMALL if options.quick else Sizes())
        with tempfile.TemporaryDirectory() as folder:
            for row in measured(Path(folder), base, made, 1 if options.quick else options.batches):
                rows.append({"world": world, "recipe": "served", "overwritten": made.overwritten, **row})
                measures = ", ".join(f"{name} {row[name]}" for name in MEASURES)
                console.print(f"{world} batch {row['batch']}: {row['came_to']}, {measures}", soft_wrap=True)
    print(json.dumps(rows, indent=1)) if options.json else show(table(rows))
    return 0


def measured(folder: Path, base: Path, made: Stream, batches: int) -> Iterator[dict[str, Any]]:
    """The four measures after each batch, by what the server answers; of the config, all but the persona is default."""
    url = configured(folder, base, next(one for one in world_of(base).personas if one.id == made.persona))
    with running(folder, "daemon", "serve") as (daemon, server), _asking(url) as ask:
        daemon.wait_for("daemon.ready")
        server.wait_for("base.loaded")
        outside = sorted({one.asked for questions in made.outside.values() for one in questions})
        known = dict(zip(outside, ask([(made.persona, text) for text in outside]), strict=True))
        for batch in made.batches[:batches]:
            rows = [(made.persona, batch.trait, item.asked, item.original, item.expected) for item in batch.items]
            begun = daemon.log.stat().st_size
            since = written(folder / "var" / "persona.db", rows)
            end = daemon.wait_for(None, LEARNT_S, lambda event: event["event"] in ENDS, begun)
            yield {
                "batch": batch.number,
                **_measures(made, batch.number, ask, known),
                "came_to": end["event"],
                "seconds": at(end) - since,
            }


def _measures(made: Stream, number: int, ask: Ask, known: dict[str, str]) -> dict[str, float | None]:
    """As the study has them, of each trait by its own model."""
    shares = {}
    for measure, questions in asked(made, number, known).items():
        said = ask([(f"{made.persona}:{trait}", one.asked) for trait, one in questions])
        shares[measure] = share([answer == one.answer for answer, (_, one) in zip(said, questions, strict=True)])
    return shares


@contextmanager
def _asking(url: str) -> Iterator[Ask]:
    """Questions to the server there, some at once."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client, ThreadPoolExecutor(ASKED_AT_ONCE) as crowd:

        def one(pair: tuple[str, str]) -> str:
            model, question = pair
            messages: list[Any] = [{"role": "user", "content": question}]
            reply = client.chat.completions.create(model=model, messages=messages, temperature=0)
            return reply.choices[0].message.content or ""

        yield lambda questions: list(crowd.map(one, questions))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench served", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small batch on the tests' base; a minute")
    parser.add_argument("--json", action="store_true", help="every row, for programs")
    told = f"of {', '.join(WORLDS)}"
    parser.add_argument("--world", type=some_of("worlds", WORLDS), default=WORLDS[:1], metavar="A,B", help=told)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batches", type=int, default=5, help="of 20; the first four are of a trait each")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
