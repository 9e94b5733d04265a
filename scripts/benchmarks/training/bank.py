"""Finished measurements on disk: a stopped benchmark goes on where it was, and what has changed is measured anew."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.benchmarks.training.settings import Measured, Task

HERE = Path(__file__).parent
SHARED = [HERE / f"{name}.py" for name in ("settings", "workloads", "models", "gauge", "judge", "session")]


@dataclass(frozen=True, slots=True)
class Kept:
    """One measurement and when it was made, in UTC."""

    measured: Measured
    at: str


class Bank:
    """Keeps a file per task, in a folder per state of what was measured; `about` says for each side what it is."""

    def __init__(self, root: Path, about: Mapping[str, Mapping[str, Any]], fresh: bool = False) -> None:
        self._root, self._about, self._fresh = root, about, fresh
        self._new: set[str] = set()

    def path(self, task: Task) -> Path:
        """Where a task's measurement is, or would be."""
        return self._root / f"{task.side}-{key(self._about[task.side])}" / f"{task.name}.json"

    def find(self, task: Task) -> Kept | None:
        """What was measured before; with `fresh`, only what was measured since."""
        path = self.path(task)
        if not path.is_file() or (self._fresh and task.name not in self._new):
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
        return Kept(Measured(**found["measured"]), found["at"])

    def keep(self, task: Task, measured: Measured) -> Kept:
        """Write a measurement, whole or not at all."""
        kept = Kept(measured, datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ"))
        path = self.path(task)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".new")
        about = self._about[task.side]
        aside.write_text(json.dumps({"task": asdict(task), **asdict(kept), "about": about}, indent=1), encoding="utf-8")
        aside.replace(path)
        self._new.add(task.name)
        return kept


def key(about: Mapping[str, Any]) -> str:
    """Twelve hex digits over machine, versions and sources."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]


def sources(files: Iterable[Path]) -> str:
    """Twelve hex digits over what the files say."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:12]


def about_sides(machine: Mapping[str, Any], ours: Mapping[str, str], theirs: Mapping[str, str]) -> dict[str, Any]:
    """For each side what its numbers depend on; TRL's outlive a change of the engine."""
    engine = (HERE.parents[2] / "daemon" / "training" / "engine").rglob("*.py")
    own = sources([*SHARED, HERE / "ours.py", HERE / "child.py", HERE / "recipes.py", *engine])
    # The matrix rate goes with the engine's numbers: both are compared, and the machine is a different one every hour.
    engine_side = {"machine": dict(machine), "versions": dict(ours), "sources": own}
    trl_side = {
        "machine": dict(machine),
        "versions": dict(theirs),
        "sources": sources([*SHARED, HERE / "theirs.py"]),
    }
    return {"ours": engine_side, "rate": engine_side, "trl": trl_side}
