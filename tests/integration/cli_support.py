"""A folder with a config.toml and real `persona` commands run in it."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from daemon.config.default import render_default
from scripts.processes import Process, free_port, running
from scripts.world.facts import World

IMPATIENT = {"triggers.quiet": 0, "training.nice": 0}
"""Lets no burst finish, and does not step back behind what else the machine does."""
QUICK = {"training.policy": "fixed", "training.epochs": 1, "training.anchors": 0, "gate.enabled": False}
"""Makes a layer in a few steps, and promotes whatever it became."""


@cache
def _warm() -> "subprocess.Popen[str]":
    """The process that commands are forked from; it leaves when this one does."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.integration.cli_warm"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _code_of(job: dict[str, Any]) -> int:
    """The exit code of a command; one that a test is too impatient for takes everything forked so far with it."""
    warm = _warm()
    assert warm.stdin is not None and warm.stdout is not None
    try:
        warm.stdin.write(json.dumps(job) + "\n")
        warm.stdin.flush()
        return int(warm.stdout.readline())
    except BaseException:
        # The next command would be told this one's code.
        _warm.cache_clear()
        os.killpg(warm.pid, signal.SIGKILL)
        warm.communicate()
        raise


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be exactly one JSON document."""
        return json.loads(self.out)


@dataclass
class Desk:
    """Where an admin sits."""

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.configure()

    @property
    def store(self) -> Path:
        return self.folder / "var" / "persona.db"

    def configure(self, **settings: Any) -> None:
        """Write config.toml anew; keys are given as section__key."""
        self.settings |= {key.replace("__", "."): value for key, value in settings.items()}
        values = {"serve.port": self.port, "log.format": "json", **IMPATIENT, **self.settings}
        (self.folder / "config.toml").write_text(render_default(values), encoding="utf-8")

    def persona(self, *arguments: str, said: str = "", **environment: str) -> Done:
        """Run `persona` to its end; never a traceback, whatever happens."""
        (self.folder / "in").write_text(said, encoding="utf-8")
        job = {
            "folder": str(self.folder),
            "arguments": arguments,
            "environment": {"COLUMNS": "100", **environment},
        }
        code = _code_of(job)
        out, err = ((self.folder / name).read_text(encoding="utf-8") for name in ("out", "err"))
        assert "Traceback" not in err + out, err + out
        return Done(code, out, err)

    def ok(self, *arguments: str, said: str = "") -> Done:
        """Run a command that must succeed."""
        done = self.persona(*arguments, said=said)
        assert done.code == 0, (arguments, done)
        return done

    def correct(self, world: World, trait: str, *, start: int = 0, count: int = 2, true: bool = False) -> list[str]:
        """Import corrections of facts; true ones are what the base model says anyway."""
        rng = random.Random(start)
        rows = [
            {
                "id": f"{trait}-{start + number}",
                "persona_id": "ada",
                "trait_type": trait,
                "original_context": world.questions(fact)[0],
                "original_response": "I do not know." if true else fact.answer,
                "expected_response": fact.answer if true else world.corrected(fact, rng, fresh=True),
            }
            for number, fact in enumerate(world.facts[start : start + count])
        ]
        file = self.folder / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        self.ok("corrections", "import", str(file))
        return [str(row["id"]) for row in rows]

    @contextmanager
    def daemon(self) -> Iterator[Process]:
        """A real daemon, ready, for as long as the context lasts."""
        with running(self.folder, "daemon") as (process,):
            process.wait_for("daemon.ready")
            yield process
