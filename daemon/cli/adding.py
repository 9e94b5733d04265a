"""`persona corrections add`: one row, written as any program would; what the store refuses is told as an option."""

import asyncio
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from daemon.cli.options import ConfigOption, JsonOption, load_config, one_of
from daemon.cli.showing import cut, print_json, say
from daemon.errors import RowRefused, UsageInvalid

if TYPE_CHECKING:
    from daemon.config.settings import Config

_SEVERITY: Final = "a number from 0 to 1"
_TEXT: Final = "a text in UTF-8"
_OPTIONS: Final = {
    "persona_id": ("--persona", "1 to 128 of A-Z a-z 0-9 . _ -, with no dot in front"),
    "trait_type": ("--trait", "1 to 128 of a-z 0-9 . _ -, with no dot in front"),
    "expected_response": ("--expected", "a text that is not blank"),
    "original_response": ("--original", _TEXT),
    "original_context": ("--context", _TEXT),
    "correction_reason": ("--reason", _TEXT),
    "severity": ("--severity", _SEVERITY),
    "corrected_by": ("--by", _TEXT),
}
"""The option behind each column, and what it takes."""
EXAMPLE: Final = """\b
For example:
  persona corrections add --persona helper-ai --trait typescript-expert \\
    --context "What are interfaces?" --original "I don't know" \\
    --expected "They define object shapes."
"""


def _severity(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UsageInvalid(f"--severity {text} cannot be; give {_SEVERITY}.")
    return value


def add(  # noqa: PLR0913 - one option per column
    persona: Annotated[str, typer.Option(metavar="P", help="The persona that was asked.", show_default=False)],
    trait: Annotated[str, typer.Option(metavar="T", help="The skill or memory it is about.", show_default=False)],
    expected: Annotated[str, typer.Option(metavar="TEXT", help="What it should have said.", show_default=False)],
    original: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What it said; a good answer needs none.")
    ] = None,
    context: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The user's message, or a JSON list of messages.")
    ] = None,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why it was wrong.")] = None,
    severity: Annotated[
        float | None, typer.Option(metavar="X", parser=_severity, help="How bad it was, 0 to 1; else 0.5.")
    ] = None,
    kind: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            parser=one_of("--kind", "correction", "affirmation"),
            help="correction, or affirmation of an answer that was right.",
        ),
    ] = "correction",
    by: Annotated[str | None, typer.Option(metavar="NAME", help="Who corrects; else your user name.")] = None,
    sensitive: Annotated[
        bool | None, typer.Option(help="Whether it must not leave this machine; else the daemon decides.")
    ] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Write one correction and print its id."""
    from daemon.cli.asking import who

    if kind == "correction":
        _check_difference(original, expected)
    row = {
        "persona_id": persona,
        "trait_type": trait,
        "original_context": context,
        "original_response": expected if original is None else original,
        "expected_response": expected,
        "correction_reason": reason,
        "severity": severity,
        "kind": kind,
        "is_sensitive": sensitive,
        "corrected_by": by or who(),
    }
    written = asyncio.run(_add(load_config(config), row))
    print_json({"id": written}) if json else say(written)


async def write(config: "Config", row: Mapping[str, Any]) -> str:
    """Insert one row, nulls left to their defaults; its id; raises RowRefused."""
    from daemon.cli.asking import opened
    from daemon.store.writers import problem

    row_id = uuid.uuid4().hex
    given = {name: value for name, value in row.items() if value is not None}
    if why_not := problem(given):
        raise RowRefused(why_not)
    async with opened(config) as store:
        await store.corrections.insert([{"id": row_id, **given}])
    return row_id


async def _add(config: "Config", row: Mapping[str, Any]) -> str:
    try:
        return await write(config, row)
    except RowRefused as refused:
        # The store speaks of columns, and names the one that it means first.
        column = str(refused).split()[0].rstrip(":")
        if column not in _OPTIONS:
            raise
        option, takes = _OPTIONS[column]
        takes = _TEXT if "UTF-8" in str(refused) else takes
        raise UsageInvalid(f"{option} {cut(str(row[column]), 60)!r} cannot be; give {takes}.") from None


def _check_difference(original: str | None, expected: str) -> None:
    """A correction says another thing than what was said; raises UsageInvalid."""
    if original is None:
        raise UsageInvalid("A correction needs --original, what was said; a good answer needs --kind affirmation.")
    if original.strip() == expected.strip():
        raise UsageInvalid("--original and --expected say the same; an answer that was right is --kind affirmation.")
