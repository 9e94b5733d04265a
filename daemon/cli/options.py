"""Options that many commands take, and what they become."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from daemon.cli.showing import cut
from daemon.errors import UsageInvalid

if TYPE_CHECKING:
    from daemon.config.settings import Config

_MOST: Final = 10**9
"""More than there will ever be of anything, and less than the largest number that a database takes."""


def whole_number(name: str, least: int) -> Callable[[str], int]:
    """What reads an option's value; it raises UsageInvalid in words that name the option."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value <= _MOST:
            raise UsageInvalid(f"{name} {cut(text)} cannot be; give a whole number from {least} to {_MOST}.")
        return value

    return read


def one_of(name: str, *choices: str) -> Callable[[str], str]:
    """What reads an option that takes one of a few words; raises UsageInvalid."""

    def read(text: str) -> str:
        if text not in choices:
            raise UsageInvalid(f"{name} {text} cannot be; give {', '.join(choices[:-1])} or {choices[-1]}.")
        return text

    return read


ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", metavar="PATH", help="Config file; else ./config.toml, else /etc/persona-daemon/."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document, and nothing else.")]
PersonaOption = Annotated[str | None, typer.Option("--persona", metavar="P", help="Only this persona.")]
TraitOption = Annotated[str | None, typer.Option("--trait", metavar="T", help="Only this trait.")]
PersonaArgument = Annotated[str, typer.Argument(metavar="PERSONA", help="The persona's id.", show_default=False)]
TraitArgument = Annotated[str, typer.Argument(metavar="TRAIT", help="The trait's name.", show_default=False)]
LimitOption = Annotated[
    int,
    typer.Option("--limit", metavar="N", parser=whole_number("--limit", 1), help="At most so many, the latest."),
]


def noun(about: str) -> typer.Typer:
    """The commands of one noun."""
    return typer.Typer(help=about, no_args_is_help=True, add_completion=False, rich_markup_mode=None)


def load_config(path: Path | None) -> "Config":
    """The config that a command works with; raises ConfigInvalid."""
    # Here, and not above: `persona --help` reads no config.
    from daemon.config.settings import Config, find_config

    return Config.load(find_config(path))
