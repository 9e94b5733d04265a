"""`persona corrections`: what people said of answers, in and out."""

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from daemon.cli import adding, conversation, reviewing, showing
from daemon.cli.options import (
    ConfigOption,
    JsonOption,
    LimitOption,
    PersonaOption,
    TraitOption,
    load_config,
    noun,
    one_of,
    whole_number,
)
from daemon.cli.showing import count, hint, json_text, print_json, say
from daemon.errors import NothingToDo, PersonaError, UsageInvalid

if TYPE_CHECKING:
    from daemon.config.settings import Config
    from daemon.domain import Correction
    from daemon.store.store import Store
    from daemon.store.writers import Written

StateOption = Annotated[
    str | None,
    typer.Option(
        "--state",
        metavar="STATE",
        parser=one_of("--state", *conversation.COLOURS),
        help="Only what is pending, claimed, used or quarantined.",
    ),
]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there instead.")]
_ALL = sys.maxsize
_REFUSALS = 10
"""Refused lines that `import` names; the others it counts."""

app = noun("What people said of answers, in and out.")
app.command("add", epilog=adding.EXAMPLE)(adding.add)


@app.command("list")
def list_(
    config: ConfigOption = None,
    persona: PersonaOption = None,
    trait: TraitOption = None,
    state: StateOption = None,
    limit: LimitOption = 20,
    json: JsonOption = False,
) -> None:
    """List corrections, the latest first."""
    rows, claimed = asyncio.run(_find(load_config(config), persona, trait, state, limit))
    if json:
        print_json([conversation.document(row, claimed) for row in rows])
    elif rows:
        showing.show(conversation.table(rows, claimed))
    elif persona or trait or state:
        say("There are no such corrections.")
    else:
        say("There are no corrections yet; write one: persona corrections add --help")


@app.command()
def show(
    correction: Annotated[str, typer.Argument(metavar="ID", help="An id, or its beginning.", show_default=False)],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show one correction whole."""
    row, claimed = asyncio.run(_get(load_config(config), correction))
    if json:
        print_json(conversation.document(row, claimed))
    else:
        showing.show(*conversation.page(row, claimed))


app.command("review")(reviewing.review)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines, or .csv; columns as `export` writes them.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Write the rows of a file that are not there already."""
    from daemon.cli import exchange

    loaded = load_config(config)
    rows, unreadable = exchange.read(file)
    done = asyncio.run(exchange.write(loaded, rows))
    refused = dict(sorted({**unreadable, **done.refused}.items()))
    if json:
        lines = [{"line": line, "error": why} for line, why in refused.items()]
        print_json({"imported": done.written, "known": done.known, "refused": lines})
    elif refused or done.written:
        _tell(file, done, refused)
    if not refused and not done.written:
        known = f"{count(done.known, 'row')} of {file} {_were(done.known)} there already; nothing is new."
        raise NothingToDo(known if done.known else f"There are no rows in {file}.")
    raise typer.Exit(1 if refused else 0)


def _tell(file: Path, done: "Written", refused: dict[int, str]) -> None:
    """Name the first refused lines, say what would fit where none did, and count."""
    from daemon.cli import exchange

    for line in list(refused)[:_REFUSALS]:
        hint(f"{file}, line {line}: {refused[line]}")
    if len(refused) > _REFUSALS:
        hint(f"… and {len(refused) - _REFUSALS} more")
    if not done.written and not done.known:
        hint(exchange.EXPECTED)
    parts = [f"{count(done.written, 'row')} imported"]
    parts += [f"{done.known} {_were(done.known)} there already"] * bool(done.known)
    parts += [f"{len(refused)} refused"] * bool(refused)
    say(", ".join(parts) + ".")


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


@app.command()
def export(
    config: ConfigOption = None, persona: PersonaOption = None, trait: TraitOption = None, output: OutputOption = None
) -> None:
    """Write corrections as JSON lines, which `import` reads."""
    from daemon.cli import exchange

    rows = asyncio.run(exchange.rows(load_config(config), persona, trait))
    if output is None:
        for row in rows:
            print(json_text(row))
        return
    exchange.save(output, rows)
    hint(f"{count(len(rows), 'row')} written to {output}.")


@app.command()
def quarantine(
    ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Ids, or their beginnings.", show_default=False)],
    config: ConfigOption = None,
    reason: Annotated[str, typer.Option(help="Why, in words.", show_default=False)] = "",
    json: JsonOption = False,
) -> None:
    """Set corrections aside that wait to be learnt.

    Where the gate refused a batch because of them, the rest of it is tried again at once.
    """
    result = asyncio.run(_quarantine(load_config(config), ids, reason))
    if json:
        print_json(result)
        return
    say(f"{count(result['quarantined'], 'correction')} set aside; to take back: persona corrections release ID")
    if result["runs"]:
        say("What was refused with them is tried again now: persona status")


async def _quarantine(config: "Config", ids: list[str], reason: str) -> Mapping[str, Any]:
    from daemon.cli.asking import ask, opened

    async with opened(config) as store:
        rows = [await _single(store, name) for name in ids]
    return await ask(config, "quarantine", {"ids": [row.id for row in rows], "reason": reason or None})


@app.command()
def release(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Ids, or their beginnings.")] = None,
    config: ConfigOption = None,
    persona: PersonaOption = None,
    trait: TraitOption = None,
    version: Annotated[
        list[int] | None,
        typer.Option(
            metavar="VERSION",
            parser=whole_number("--version", 1),
            help="Only what was rolled back with it; may be repeated.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Take corrections out of quarantine, to be learnt after all."""
    if bool(ids) == bool(persona or trait):
        raise UsageInvalid("Name ids, or all that is quarantined of a --persona or --trait.")
    if version and not (persona and trait):
        raise UsageInvalid("A --version is that of a --persona's --trait; name both.")
    result, again = asyncio.run(_release(load_config(config), ids or [], persona, trait, version or []))
    if json:
        print_json(result)
        return
    say(f"{count(result['released'], 'correction')} released.")
    if again:
        say("What an undone layer had learnt is due at once, in a run of its own: persona status")


async def _release(
    config: "Config", ids: list[str], persona: str | None, trait: str | None, versions: list[int]
) -> tuple[Mapping[str, Any], bool]:
    """What came of the request, and whether some of the rows were learnt before."""
    from daemon.cli.asking import ask, opened
    from daemon.store.lineage import undone_with

    async with opened(config) as store:
        if ids:
            rows = [await _single(store, name) for name in ids]
        else:
            aside = await store.corrections.find(persona, trait, "quarantined", _ALL)
            reasons = {undone_with(version) for version in versions}
            rows = [row for row in aside if not versions or row.quarantined in reasons]
    if not rows:
        whose = f"{persona}:{trait}" if persona and trait else persona or f"the trait {trait}"
        with_them = f" since v{' or v'.join(map(str, versions))} was undone" if versions else ""
        raise NothingToDo(
            f"Nothing of {whose} is quarantined{with_them}; see: persona corrections list --state quarantined"
        )
    result = await ask(config, "release", {"ids": [row.id for row in rows]})
    return result, any(row.used for row in rows)


async def _find(
    config: "Config", persona: str | None, trait: str | None, state: str | None, limit: int
) -> "tuple[list[Correction], set[str]]":
    from daemon.cli.asking import opened

    async with opened(config) as store:
        return await store.corrections.find(persona, trait, state, limit), await _claimed(store)


async def _get(config: "Config", correction_id: str) -> "tuple[Correction, set[str]]":
    from daemon.cli.asking import opened

    async with opened(config) as store:
        return await _single(store, correction_id), await _claimed(store)


async def _single(store: "Store", beginning: str) -> "Correction":
    """The one correction whose id begins so; raises PersonaError."""
    row = await store.corrections.get(beginning) if beginning else None
    if row is None:
        raise PersonaError(f"No correction, or more than one, begins with {beginning!r}; see: persona corrections list")
    return row


async def _claimed(store: "Store") -> set[str]:
    return {row.id for run in await store.runs.live() for row in await store.corrections.claimed_by(run.id)}
