"""`persona runs`: what was trained, why, and what the gate saw."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from daemon.cli import showing
from daemon.cli.options import (
    ConfigOption,
    JsonOption,
    LimitOption,
    PersonaOption,
    TraitOption,
    load_config,
    noun,
)
from daemon.cli.showing import ago, count, print_json, run_document, say, short
from daemon.cli.tables import Table
from daemon.errors import PersonaError

if TYPE_CHECKING:
    from daemon.config.settings import Config
    from daemon.domain import Correction, Run

RunArgument = Annotated[str, typer.Argument(metavar="ID", help="A run's id, or its beginning.", show_default=False)]

app = noun("What was trained, why, and what the gate saw.")


@app.command("list")
def list_(
    config: ConfigOption = None,
    persona: PersonaOption = None,
    trait: TraitOption = None,
    limit: LimitOption = 20,
    json: JsonOption = False,
) -> None:
    """List runs, the latest first."""
    runs = asyncio.run(_latest(load_config(config), persona, trait, limit))
    if json:
        print_json([run_document(run) for run in runs])
        return
    showing.show(_table(runs) if runs else "No runs yet; see why: persona status")


@app.command()
def show(run: RunArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show one run: why, what the gate measured, and every probe."""
    found, corrections = asyncio.run(_found(load_config(config), run))
    if json:
        print_json(run_document(found, corrections=[row.id for row in corrections], evidence=dict(found.evidence)))
        return
    from daemon.cli import evidence

    showing.show(*evidence.page(found, corrections))


@app.command()
def cancel(run: RunArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """End a run; its corrections go back to pending.

    What a transfer or a merge brought along is set aside.
    """
    from daemon.cli.asking import ask

    result = asyncio.run(ask(load_config(config), "cancel", {"run": run}))
    if json:
        print_json(result)
    else:
        back, aside = count(result["pending"], "correction"), count(result["quarantined"], "correction")
        what = f"{aside} that it brought along set aside" if result["quarantined"] else f"{back} pending again"
        say(f"Run {short(result['run'])} is cancelled; {what}.")


async def _latest(config: "Config", persona: str | None, trait: str | None, limit: int) -> "list[Run]":
    from daemon.cli.asking import opened

    async with opened(config) as store:
        return await store.runs.latest(limit, persona, trait)


async def _found(config: "Config", run_id: str) -> "tuple[Run, list[Correction]]":
    from daemon.cli.asking import opened

    async with opened(config) as store:
        run = await store.runs.get(run_id) if run_id else None
        if run is None:
            raise PersonaError(f"No run, or more than one, begins with {run_id!r}; see: persona runs list")
        return run, await store.corrections.claimed_by(run.id)


def _table(runs: "list[Run]") -> Table:
    from daemon.cli.evidence import COLOURS

    made = Table(
        "id", "trait", "v", "state", "when", "planned because", "reason",
        right=["v"], names=["trait"], wrap=["reason"], optional=["planned because"],
    )  # fmt: skip
    for run in runs:
        made.add_row(
            short(run.id), str(run.key), str(run.version), Text(run.state, style=COLOURS.get(run.state, "")),
            ago(run.created), run.planned_because, run.reason or "",
        )  # fmt: skip
    return made
