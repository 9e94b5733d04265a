"""Options that many commands take, and what they become."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from daemon.config.settings import Config

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="PATH", help="config.toml; default: ./config.toml, then /etc/persona-daemon/."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")]
PersonaOption = Annotated[str | None, typer.Option("--persona", metavar="P", help="Only this persona.")]
TraitOption = Annotated[str | None, typer.Option("--trait", metavar="T", help="Only this trait.")]
PersonaArgument = Annotated[str, typer.Argument(metavar="PERSONA", help="The persona's id.", show_default=False)]
TraitArgument = Annotated[str, typer.Argument(metavar="TRAIT", help="The trait's name.", show_default=False)]
LimitOption = Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most so many, the latest.")]


def noun(about: str) -> typer.Typer:
    """The commands of one noun."""
    return typer.Typer(help=about, no_args_is_help=True, add_completion=False)


def load_config(path: Path | None) -> "Config":
    """The config that a command works with; raises ConfigInvalid."""
    # Here, and not above: `persona --help` reads no config.
    from daemon.config.settings import Config, find_config

    return Config.load(find_config(path))
