"""A real `persona daemon` and `persona serve` of one config, started, watched and ended together."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PERSONA = Path(sys.executable).with_name("persona")


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


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
        for line in self.log.read_bytes()[since:].decode("utf-8", "replace").splitlines():
            if line.startswith("{") and line.endswith("}"):
                event = json.loads(line)
                found += [event] if name in (None, event["event"]) else []
        return found

    def wait_for(
        self, name: str, seconds: float, wanted: Callable[[dict[str, Any]], bool] = lambda _: True, since: int = 0
    ) -> dict[str, Any]:
        """The first such event; raises RuntimeError when the process dies or the time is over."""
        deadline = time.monotonic() + seconds
        while True:
            for event in self.events(name, since):
                if wanted(event):
                    return event
            if self.process.poll() is not None:
                raise RuntimeError(f"persona {self.arguments[0]} left with {self.process.returncode}; see {self.log}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"no {name} within {seconds:.0f} s; see {self.log}")
            time.sleep(0.05)

    def end(self, grace: float = 25.0) -> int:
        """Ask it to stop, end it when it does not; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(grace)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait()


@contextmanager
def running(folder: Path, *names: str) -> Iterator[list[Process]]:
    """Processes of the config.toml in a folder, none of which outlives the context."""
    processes: list[Process] = []
    try:
        # One by one, so that the first is ended when the second cannot be started.
        processes.extend(Process((name,), folder, folder / f"{name}.log") for name in names)
        yield processes
    finally:
        for process in reversed(processes):
            process.end()
