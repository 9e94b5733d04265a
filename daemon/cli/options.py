"""Options that many commands take, and what they become."""

from pathlib import Path
from typing import Annotated

import typer

from daemon.config.settings import Config, find_config

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="PATH", help="config.toml; default: ./config.toml, then /etc/persona-daemon/."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")]


def load_config(path: Path | None) -> Config:
    """The config that a command works with; raises ConfigInvalid."""
    return Config.load(find_config(path))
