"""A stop of the server ends with its grace, although a base model that is being loaded cannot be called off."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.config.default import render_default
from scripts.processes import PATIENCE_S, free_port
from tests.integration.serve_support import House, house_at
from tests.processes import started, wait_until

STUCK = """
import asyncio, sys, time
from pathlib import Path
from transformers import AutoModelForCausalLM
from daemon.config.settings import Config
from daemon.service import serving

def stuck(*_, **__):
    print("reading", file=sys.stderr, flush=True)
    time.sleep(3600)

AutoModelForCausalLM.from_pretrained = stuck
asyncio.run(serving.serve(Config.load(Path(sys.argv[1]))))
"""
"""Serves over a disk from which no weights ever come."""


@pytest.fixture
def house(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> House:
    return house_at(tmp_path, tmp_path_factory.getbasetemp())


class Stuck:
    """A server that loads its base model for an hour."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.log = folder / "log"
        self.port = free_port()
        self._config = folder / "config.toml"
        self._settings = {"defaults.base_model": str(base), "serve.port": self.port, "log.format": "json"}

    def save(self, grace: str) -> None:
        """Write config.toml, at once as editors do."""
        aside = self._config.with_suffix(".new")
        aside.write_text(render_default({**self._settings, "service.grace": grace}), encoding="utf-8")
        aside.rename(self._config)

    @contextmanager
    def running(self) -> Iterator["subprocess.Popen[str]"]:
        """It takes requests, and its weights are being read."""
        command = [sys.executable, "-c", STUCK, str(self._config)]
        with self.log.open("wb") as log, started(*command, stderr=log) as process:
            self.said("server.ready")
            self.said("reading")
            yield process

    def said(self, word: str) -> None:
        """Wait until the log has a word."""
        wait_until(lambda: word in self.log.read_text())

    def listens(self) -> bool:
        """Whether connections are taken."""
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.mark.parametrize("saved", [False, True], ids=["at the start", "in a config saved since"])
def test_invariant_12_it_leaves_when_the_grace_is_over_whatever_it_loads(
    tmp_path: Path, house: House, saved: bool
) -> None:
    server = Stuck(tmp_path, house.base)
    server.save("1h" if saved else "1s")
    with server.running() as process:
        if saved:
            server.save("1s")
            server.said("config.reloaded")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 1


def test_invariant_12_asked_twice_it_leaves_at_once_whatever_it_loads(tmp_path: Path, house: House) -> None:
    server = Stuck(tmp_path, house.base)
    server.save("1h")
    body = b'{"model": "base", "messages": [{"role": "user", "content": "Hello!"}]}'
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n"
    with server.running() as process, socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as client:
        client.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n")
        # Said when the request is being read: it is under way from here on.
        assert client.recv(100).startswith(b"HTTP/1.1 100")
        client.sendall(body)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: not server.listens())
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 1
