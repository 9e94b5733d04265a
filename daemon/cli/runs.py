"""`persona runs`: what was trained, why, and what the gate saw."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
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
from daemon.cli.showing import (
    ago,
    cut,
    moment,
    pairs,
    print_json,
    run_document,
    say,
    short,
    table,
)
from daemon.errors import PersonaError

if TYPE_CHECKING:
    from daemon.config.settings import Config
    from daemon.domain import Correction, Run

RunArgument = Annotated[str, typer.Argument(metavar="ID", help="A run's id, or its beginning.", show_default=False)]
_COLOURS = {"promoted": "green", "satisfied": "green", "rejected": "red", "failed": "red", "cancelled": "yellow"}

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
    made = table(
        "id", "trait", "v", "state", "when", "planned because", "reason", right=["v"], cut=["planned because", "reason"]
    )
    for run in runs:
        state = Text(run.state, style=_COLOURS.get(run.state, ""))
        made.add_row(
            short(run.id), str(run.key), str(run.version), state, ago(run.created), cut(run.trigger, 120),
            cut(run.reason, 120),
        )  # fmt: skip
    showing.show(made if runs else "No runs yet; see why: persona status")


@app.command()
def show(run: RunArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """Show a run: the verdict, the scores behind it, and every probe."""
    found, corrections = asyncio.run(_found(load_config(config), run))
    if json:
        print_json(run_document(found, corrections=[row.id for row in corrections], evidence=dict(found.evidence)))
        return
    showing.show(pairs(_facts(found, len(corrections))))
    if scores := found.evidence.get("scores"):
        showing.show("", _scores(scores))
    if metrics := found.evidence.get("metrics"):
        showing.show("", pairs(_metrics(metrics)))
    if probes := found.evidence.get("probes"):
        showing.show("", _probes(probes))


@app.command()
def cancel(run: RunArgument, config: ConfigOption = None, json: JsonOption = False) -> None:
    """End a run; its corrections go back to pending."""
    from daemon.cli.asking import ask

    result = asyncio.run(ask(load_config(config), "cancel", {"run": run}))
    if json:
        print_json(result)
    else:
        say(f"Run {short(result['run'])} is cancelled; its corrections are pending again.")


async def _latest(config: "Config", persona: str | None, trait: str | None, limit: int) -> "list[Run]":
    from daemon.cli.asking import opened

    async with opened(config) as store:
        return await store.runs.latest(limit, persona, trait)


async def _found(config: "Config", run_id: str) -> "tuple[Run, list[Correction]]":
    from daemon.cli.asking import opened

    async with opened(config) as store:
        run = await store.runs.get(run_id) if run_id else None
        if run is None:
            raise PersonaError(f"There is no one run {run_id!r}; see: persona runs list")
        return run, await store.corrections.claimed_by(run.id)


def _facts(run: "Run", corrections: int) -> dict[str, Any]:
    return {
        "run": run.id,
        "trait": f"{run.key} v{run.version}",
        "state": run.state,
        "reason": run.reason,
        "planned because": run.trigger,
        "corrections": corrections,
        "planned": moment(run.created),
        "ended": moment(run.finished),
        "attempt": f"{run.attempt}, {run.failures} failed" if run.failures else run.attempt,
        "layer": run.layer_path,
    }


def _scores(scores: dict[str, Any]) -> Table:
    numbers = ["probes", "right before", "right after", "lost", "margin"]
    made = table("group", *numbers, right=numbers)
    for group, score in scores.items():
        if score["probes"]:
            made.add_row(
                group, str(score["probes"]), str(score["incumbent"]), str(score["candidate"]), str(score["lost"]),
                f"{score['margin_gain']:+.2f}",
            )  # fmt: skip
    return made


def _metrics(metrics: dict[str, Any]) -> dict[str, str]:
    """Measurements for people: seconds per stage on one line, numbers rounded."""
    told: dict[str, str] = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            told[name] = ", ".join(f"{part} {_figure(number)}" for part, number in value.items())
        else:
            told[name] = _figure(value)
    return told


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _probes(probes: list[dict[str, Any]]) -> Table:
    made = table("probe", "group", "before", "after", "right")
    for probe in probes:
        before, after = probe["incumbent"], probe["candidate"]
        answers = [cut(answer["text"], 160) if answer else "" for answer in (before, after)]
        right = " → ".join("yes" if answer["right"] else "no" for answer in (before, after) if answer)
        made.add_row(short(probe["id"]), probe["group"], *answers, right)
    return made
