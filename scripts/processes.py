"""A real `persona daemon` and `persona serve` of one config, started, watched and ended together."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.config.default import render_default
from scripts.world.lore import Persona

PERSONA = Path(sys.executable).with_name("persona")
PATIENCE_S = 120.0
"""For what takes a moment, and much longer where others keep the machine busy."""
TRAINING_S = 600.0
"""For what takes a training."""
_PORTS = range(20_000, 32_000)
"""None of those that systems give to outgoing connections, one of which could take it before it is used."""


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def configured(folder: Path, base: Path, persona: Persona) -> str:
    """Write a folder's config.toml for one persona on a base model; the address that its server will have."""
    port = free_port()
    own = f"\n[personas.{persona.id}]\nsystem_prompt = {json.dumps(persona.system_prompt)}\n"
    config = render_default({"defaults.base_model": str(base), "serve.port": port}) + own
    (folder / "config.toml").write_text(config, encoding="utf-8")
    return f"http://127.0.0.1:{port}"


@dataclass
class Process:
    """One `persona` process whose log is a file of JSON lines."""

    arguments: tuple[str, ...]
    folder: Path
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [PERSONA, *self.arguments],
                cwd=self.folder,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=os.environ | {"PERSONA_LOG__FORMAT": "json"},
            )

    def events(self, name: str | None = None, since: int = 0) -> list[dict[str, Any]]:
        """What it logged from byte `since` on, one event or all."""
        found = []
        # What follows the last end of a line is still being written.
        for line in self.log.read_bytes()[since:].split(b"\n")[:-1]:
            if line.startswith(b"{") and line.endswith(b"}"):
                event = json.loads(line)
                found += [event] if name in (None, event["event"]) else []
        return found

    def wait_for(
        self,
        name: str | None,
        seconds: float = PATIENCE_S,
        wanted: Callable[[dict[str, Any]], bool] = lambda _: True,
        since: int = 0,
    ) -> dict[str, Any]:
        """The first such event, or of any name; raises RuntimeError when the process dies or the time is over."""
        deadline = time.monotonic() + seconds
        while True:
            # Asked first, so that the last words of a process are heard.
            late, code = time.monotonic() > deadline, self.process.poll()
            for event in self.events(name, since):
                if wanted(event):
                    return event
            if code is not None:
                raise RuntimeError(f"persona {self.arguments[0]} left with {code}; see {self.log}")
            if late:
                raise RuntimeError(f"no {name or 'such event'} within {seconds:.0f} s; see {self.log}")
            time.sleep(0.05)

    def end(self, grace: float = 60.0) -> int:
        """Ask it to stop, end it when it does not; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(grace)
        finally:
            # Whatever cut the waiting short, nothing of it stays behind.
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()


@contextmanager
def running(folder: Path, *names: str) -> Iterator[list[Process]]:
    """Processes of the config.toml in a folder, none of which outlives the context."""
    with ExitStack() as stack:
        processes = []
        for name in names:
            process = Process((name,), folder, folder / f"{name}.log")
            stack.callback(process.end)
            processes.append(process)
        yield processes
