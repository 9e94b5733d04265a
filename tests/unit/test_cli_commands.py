"""The shape of the command line: what every command takes, and what it must not load."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer

from daemon.cli.main import app

READING = ["status", "check", "corrections list", "corrections show", "runs list", "runs show", "genome show"]
CHANGING = ["train", "corrections add", "corrections import", "corrections release", "runs cancel"]
GENOME = ["genome history", "genome rollback", "genome pin", "genome unpin"]
LOADS = "import sys, daemon.cli.main as m; {} print(*[n for n in {} if n in sys.modules])"


def _commands() -> Iterator[tuple[str, set[str], str]]:
    def walk(command: object, path: str) -> Iterator[tuple[str, set[str], str]]:
        inner = getattr(command, "commands", None)
        if inner is None:
            options = {option for parameter in command.params for option in parameter.opts}  # type: ignore[attr-defined]
            yield path, options, command.help or ""  # type: ignore[attr-defined]
            return
        for name, child in inner.items():
            yield from walk(child, f"{path} {name}".strip())

    yield from walk(typer.main.get_command(app), "")


COMMANDS = {path: (options, about) for path, options, about in _commands()}


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_takes_a_config_and_says_what_it_does(path: str) -> None:
    options, about = COMMANDS[path]
    assert "--config" in options
    assert len(about.split()) >= 4, about


@pytest.mark.parametrize("path", [*READING, *CHANGING, *GENOME])
def test_what_tells_something_tells_it_as_json_too(path: str) -> None:
    assert "--json" in COMMANDS[path][0]


@pytest.mark.parametrize(
    "importing", ["", "import daemon.cli.asking, daemon.cli.following, daemon.cli.exchange, daemon.service.lifecycle;"]
)
def test_no_command_loads_what_only_the_trainer_and_the_server_need(importing: str) -> None:
    heavy = ["torch", "transformers", "peft", "openai"]
    ran = subprocess.run([sys.executable, "-c", LOADS.format(importing, heavy)], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip()) == (0, ""), ran


def test_help_needs_no_store_and_no_config() -> None:
    heavy = ["sqlalchemy", "pydantic", "structlog", "apscheduler", "httpx"]
    ran = subprocess.run([sys.executable, "-c", LOADS.format("", heavy)], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip()) == (0, ""), ran
