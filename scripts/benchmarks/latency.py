"""How long ten corrections take to be served, stage by stage: a real daemon, a real server, the demo's base model."""

import argparse
import json
import random
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from scripts.processes import TRAINING_S, Process, configured, running
from scripts.world.__main__ import build
from scripts.world.base import world_of
from scripts.world.facts import Fact, World

CORRECTIONS = 10
GOAL_S = 15.0
PERSONA = "helper-ai"
STAGES = {
    "burst": "waiting for more corrections",
    "start": "starting the trainer",
    "load": "loading the base model",
    "probe_incumbent": "probing the incumbent",
    "anchors": "making up anchors",
    "surroundings": "looking around",
    "train": "training",
    "probe_candidate": "probing the candidate",
    "handover": "handing over job and result",
    "promote": "judging and promoting",
    "converge": "taken up by the server",
}
INSERT = """INSERT INTO training_corrections
  (persona_id, trait_type, original_context, original_response, expected_response) VALUES (?, ?, ?, ?, ?)"""

console = Console(highlight=False)


def main() -> None:
    """One batch that finds no trainer running, then others that find it warm."""
    parser = argparse.ArgumentParser(prog="scripts/bench latency", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one warm batch instead of five")
    parser.add_argument("--json", action="store_true", help="everything that was measured, for programs")
    options = parser.parse_args()
    base = build("demo", None, console)
    world = world_of(base)
    facts = random.Random(5).sample(list(world.facts), 6 * CORRECTIONS)
    batches = [facts[at : at + CORRECTIONS] for at in range(0, len(facts), CORRECTIONS)][: 2 if options.quick else None]
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), base, world, batches)
    if options.json:
        print(json.dumps(found))
        return
    console.print(table(found))
    slowest = max(sum(stages.values()) for stages in found[1:])
    console.print(f"With a warm trainer {slowest:.1f} s at most; the goal is less than {GOAL_S:.0f} s.")


def measured(folder: Path, base: Path, world: World, batches: list[list[Fact]]) -> list[dict[str, float]]:
    """Seconds of every stage, batch by batch, each for a trait of its own."""
    configured(folder, base, next(persona for persona in world.personas if persona.id == PERSONA))
    store = folder / "var" / "persona.db"
    with running(folder, "daemon", "serve") as (daemon, server):
        daemon.wait_for("daemon.ready")
        server.wait_for("base.loaded")
        return [one(daemon, store, f"batch-{at}", world, batch) for at, batch in enumerate(batches)]


def one(daemon: Process, store: Path, trait: str, world: World, facts: list[Fact]) -> dict[str, float]:
    """Write ten corrections in one transaction and wait until the server speaks by them."""
    rng = random.Random(trait)
    rows = [(PERSONA, trait, world.questions(fact)[0], fact.answer, world.corrected(fact, rng)) for fact in facts]
    begun = daemon.log.stat().st_size
    since = written(store, rows)
    converged = daemon.wait_for("runtime.converged", TRAINING_S, since=begun)
    with closing(sqlite3.connect(store, timeout=60.0)) as connection:
        found = connection.execute("SELECT evidence FROM training_runs WHERE trait_type = ?", (trait,)).fetchone()
    inside = json.loads(found[0])["metrics"]["seconds"]
    planned, judged, promoted = (
        at(daemon.events(name, begun)[0]) for name in ("run.planned", "run.evaluated", "genome.revised")
    )
    return {
        "burst": planned - since,
        **inside,
        "handover": judged - planned - sum(inside.values()),
        "promote": promoted - judged,
        "converge": at(converged) - promoted,
    }


def written(store: Path, rows: Sequence[tuple[str, ...]]) -> float:
    """Write corrections in one transaction: persona, trait, context, original and expected response; when."""
    with closing(sqlite3.connect(store, timeout=60.0)) as connection, connection:
        connection.executemany(INSERT, rows)
    return time.time()


def at(event: dict[str, Any]) -> float:
    """When something was logged, in seconds of Unix time."""
    return datetime.fromisoformat(event["timestamp"]).timestamp()


def table(found: list[dict[str, float]]) -> Table:
    """A row for each stage, a column for each batch."""
    heads = ["cold", *["warm"] * (len(found) - 1)]
    made = Table(Column("seconds", no_wrap=True), *heads, header_style="bold")
    for column in made.columns[1:]:
        column.justify = "right"
    for stage, about in STAGES.items():
        made.add_row(about, *(f"{stages[stage]:.2f}" if stage in stages else "" for stages in found))
    made.add_section()
    made.add_row("ten corrections, served", *(f"{sum(stages.values()):.2f}" for stages in found))
    return made


if __name__ == "__main__":
    main()
