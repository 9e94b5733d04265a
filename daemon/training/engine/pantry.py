"""Anchors on disk: a base makes them up once under a system prompt, and again when a month has passed."""

import hashlib
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from daemon.training.engine.anchors import Told, make_up
from daemon.training.engine.base import Base
from daemon.training.engine.checkpoint import program

MONTH = 30 * 86_400
"""Seconds after which a base makes up others: what some do not hold, others may."""


@dataclass(frozen=True, slots=True)
class Pantry:
    """Where anchors are kept; without a folder they are made up each time."""

    folder: Path | None

    def told(self, base: Base, stamp: object, count: int, system: str, alive: Callable[[], None]) -> list[Told]:
        """This month's questions and answers of a base under a system prompt.

        stamp: what tells one state and form of a base from another.
        """
        month = int(time.time() // MONTH)
        identity = hashlib.sha256(f"{stamp} {count} {month} {system} {program()}".encode()).hexdigest()
        if self.folder is None:
            return make_up(base, count, alive, system, month)
        # One file for each base and prompt: another month, or another program, writes over it.
        file = self.folder / f"{hashlib.sha256(f'{base.folder} {system}'.encode()).hexdigest()[:16]}.jsonl"
        if (kept := _read(file, identity)) is not None:
            return kept
        made = make_up(base, count, alive, system, month)
        try:
            _write(file, identity, made)
        except OSError as error:
            print(f"anchors are not kept in {file}, so each start makes them up anew: {error}", file=sys.stderr)
        return made


def _read(file: Path, identity: str) -> list[Told] | None:
    try:
        head, *lines = file.read_text(encoding="utf-8").splitlines()
        if json.loads(head) != {"identity": identity}:
            return None
        return [(question, list(map(int, answer))) for question, answer in map(json.loads, lines)]
    except (OSError, ValueError, TypeError):
        return None


def _write(file: Path, identity: str, made: list[Told]) -> None:
    """Whole or not at all: two children may write at once."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(f".{time.monotonic_ns()}")
    lines = [json.dumps({"identity": identity}), *map(json.dumps, made)]
    fresh.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    fresh.replace(file)
