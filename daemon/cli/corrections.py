"""`persona corrections`: what people said of answers, in and out."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.text import Text

from daemon.cli import reviewing, showing
from daemon.cli.options import ConfigOption, JsonOption, LimitOption, PersonaOption, TraitOption, load_config, noun
from daemon.cli.showing import ago, cut, hint, json_text, moment, pairs, print_json, say, short, table
from daemon.errors import NothingToDo, PersonaError, UsageInvalid

if TYPE_CHECKING:
    from daemon.config.settings import Config
    from daemon.domain import Correction

State = Literal["pending", "claimed", "used", "quarantined"]
StateOption = Annotated[State | None, typer.Option("--state", help="Only rows in this state.")]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write there instead.")]
_COLOURS = {"pending": "yellow", "claimed": "cyan", "used": "green", "quarantined": "red"}
_ALL = sys.maxsize

app = noun("What people said of answers: written, read, reviewed, released.")
app.command("review")(reviewing.review)


@app.command()
def add(  # noqa: PLR0913 - one option per column
    persona: Annotated[str, typer.Option(help="Who said it.", show_default=False)],
    trait: Annotated[str, typer.Option(help="Which skill or memory of it is meant.", show_default=False)],
    expected: Annotated[str, typer.Option(help="What it should have said.", show_default=False)],
    original: Annotated[str | None, typer.Option(help="What it said; an affirmation needs none.")] = None,
    context: Annotated[str | None, typer.Option(help="The user's message, or JSON messages.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why.")] = None,
    severity: Annotated[float | None, typer.Option(help="How bad it was, 0 to 1.")] = None,
    kind: Annotated[Literal["correction", "affirmation"], typer.Option(help="Wrong, or right.")] = "correction",
    by: Annotated[str | None, typer.Option(help="Who corrects; else your user name.")] = None,
    sensitive: Annotated[bool | None, typer.Option(help="Whether it must stay here; else the daemon decides.")] = None,
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Write one correction, or affirmation; prints its id."""
    from daemon.cli.asking import who

    if original is None and kind == "correction":
        raise UsageInvalid("A correction needs --original, what was said; a good answer needs --kind affirmation.")
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
    written = asyncio.run(reviewing.write(load_config(config), row))
    print_json({"id": written}) if json else say(written)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines, or .csv; columns as in the table.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Write the rows of a file; those that the store refuses are named, the others go in."""
    from daemon.cli import exchange

    loaded = load_config(config)
    rows, refused = exchange.read(file)
    written, more = asyncio.run(exchange.write(loaded, rows))
    refused = dict(sorted({**refused, **more}.items()))
    if json:
        print_json({"imported": written, "refused": [{"line": line, "error": why} for line, why in refused.items()]})
    elif written or refused:
        for line, why in refused.items():
            hint(f"{file}, line {line}: {why}")
        say(f"{written} rows imported" + (f", {len(refused)} refused." if refused else "."))
    if not written and not refused:
        raise NothingToDo(f"There are no rows in {file}.")
    raise typer.Exit(1 if refused else 0)


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
        print_json([_document(row, claimed) for row in rows])
        return
    made = table("id", "trait", "state", "when", "asked", "expected", cut=["asked", "expected"])
    for row in rows:
        where = _state(row, claimed)
        expected = ("✓ " if row.kind == "affirmation" else "") + cut(row.expected, 80)
        made.add_row(
            short(row.id), str(row.key), Text(where, style=_COLOURS[where]), ago(row.received),
            cut(row.context or row.original, 80), expected,
        )  # fmt: skip
    showing.show(made if rows else "There are none.")


@app.command()
def show(
    correction: Annotated[str, typer.Argument(metavar="ID", help="An id, or its beginning.", show_default=False)],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show one correction whole."""
    row, claimed = asyncio.run(_get(load_config(config), correction))
    document = _document(row, claimed)
    if json:
        print_json(document)
    else:
        showing.show(pairs({**document, "received_at": moment(row.received)}))


@app.command()
def export(
    config: ConfigOption = None, persona: PersonaOption = None, trait: TraitOption = None, output: OutputOption = None
) -> None:
    """Write corrections as JSON lines, every column as it is stored; `import` reads them."""
    from daemon.cli import exchange

    rows = asyncio.run(exchange.rows(load_config(config), persona, trait))
    if output is None:
        for row in rows:
            print(json_text(row))
        return
    exchange.save(output, rows)
    hint(f"{len(rows)} rows written to {output}.")


@app.command()
def release(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids, or their beginnings.")] = None,
    config: ConfigOption = None,
    persona: PersonaOption = None,
    trait: TraitOption = None,
    json: JsonOption = False,
) -> None:
    """Take corrections out of quarantine, so that the next layer learns them."""
    if bool(ids) == bool(persona or trait):
        raise UsageInvalid("Name ids, or all that is quarantined of a --persona or --trait.")
    result = asyncio.run(_release(load_config(config), ids or [], persona, trait))
    if json:
        print_json(result)
    else:
        say(f"{result['released']} released.")


async def _release(config: "Config", ids: list[str], persona: str | None, trait: str | None) -> Any:
    from daemon.cli.asking import ask, opened

    async with opened(config) as store:
        if ids:
            found = [(name, await store.corrections.get(name)) for name in ids]
        else:
            found = [(row.id, row) for row in await store.corrections.find(persona, trait, "quarantined", _ALL)]
    if unknown := [name for name, row in found if row is None]:
        raise PersonaError(f"There is no one correction {unknown[0]!r}; see: persona corrections list")
    if not found:
        raise NothingToDo("Nothing of it is quarantined.")
    return await ask(config, "release", {"ids": [row.id for _, row in found if row]})


async def _find(
    config: "Config", persona: str | None, trait: str | None, state: str | None, limit: int
) -> "tuple[list[Correction], set[str]]":
    from daemon.cli.asking import opened

    async with opened(config) as store:
        return await store.corrections.find(persona, trait, state, limit), await _claimed(store)


async def _get(config: "Config", correction_id: str) -> "tuple[Correction, set[str]]":
    from daemon.cli.asking import opened

    async with opened(config) as store:
        row = await store.corrections.get(correction_id) if correction_id else None
        if row is None:
            raise PersonaError(f"There is no one correction {correction_id!r}; see: persona corrections list")
        return row, await _claimed(store)


async def _claimed(store: Any) -> set[str]:
    return {row.id for run in await store.runs.live() for row in await store.corrections.claimed_by(run.id)}


def _state(row: "Correction", claimed: set[str]) -> str:
    if row.quarantined is not None:
        return "quarantined"
    return "used" if row.used else "claimed" if row.id in claimed else "pending"


def _document(row: "Correction", claimed: set[str]) -> dict[str, Any]:
    from daemon.store.rows import iso

    return {
        "id": row.id,
        "persona_id": row.key.persona,
        "trait_type": row.key.trait,
        "state": _state(row, claimed),
        "quarantined_reason": row.quarantined,
        "kind": row.kind,
        "original_context": row.context,
        "original_response": row.original,
        "expected_response": row.expected,
        "correction_reason": row.reason,
        "severity": row.severity,
        "source": row.source,
        "corrected_by": row.author,
        "received_at": iso(row.received),
    }
