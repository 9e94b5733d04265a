"""`persona status`: what is pending and why, what runs, what speaks, what serves."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from daemon.cli import showing
from daemon.cli.options import ConfigOption, JsonOption, load_config
from daemon.cli.showing import ago, console, cut, plain, print_json, table
from daemon.errors import UsageInvalid

if TYPE_CHECKING:
    from daemon.config.settings import Config

Document = dict[str, Any]
_REFRESH_S = 1.0


def status(
    config: ConfigOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing it, until Ctrl-C.")] = False,
    json: JsonOption = False,
) -> None:
    """Show the backlog of each trait and why it is due or not, the running job, genomes and runtimes."""
    import asyncio

    if watch and json:
        raise UsageInvalid("--watch keeps drawing, --json prints one document; give one of them.")
    if watch and not console().is_terminal:
        raise UsageInvalid("--watch draws on a terminal, and this is none; leave it out.")
    try:
        asyncio.run(_watched(load_config(config)) if watch else _shown(load_config(config), json))
    except KeyboardInterrupt:
        if not watch:
            raise


async def _shown(config: "Config", json: bool) -> None:
    from daemon.cli.asking import opened

    async with opened(config) as store:
        document = await _document(store, config)
    if json:
        print_json(document)
    else:
        showing.show(page(document))


async def _watched(config: "Config") -> None:
    import asyncio

    from daemon.cli.asking import opened

    async with opened(config) as store:
        with Live(page(await _document(store, config)), console=console(), auto_refresh=False, screen=True) as live:
            while True:
                await asyncio.sleep(_REFRESH_S)
                live.update(page(await _document(store, config)), refresh=True)


async def _document(store: Any, config: "Config") -> Document:
    from daemon.learning.status import document
    from daemon.store.lock import StoreLock

    lock = StoreLock(config.store.path)
    return await document(store, config, lock.note() if lock.held() else None)


def page(document: Document) -> RenderableType:
    """The whole document for people."""
    parts: list[RenderableType] = [_daemon(document["daemon"])]
    if document["traits"]:
        parts += ["", _traits(document["traits"])]
    else:
        parts += ["", Text("No corrections yet; write some, or: persona corrections add --help", style="dim")]
    if document["runs"]:
        parts += ["", _runs(document["runs"])]
    if document["genomes"]:
        parts += ["", _genomes(document["genomes"])]
    return Group(*parts, "", _runtimes(document["runtimes"]))


def _daemon(daemon: Document) -> Text:
    state = daemon["state"]
    line = Text.assemble("daemon  ", (state, "green" if state == "ready" else "yellow"))
    if daemon["pid"]:
        since = datetime.fromisoformat(daemon["since"]).timestamp()
        line.append(f"   pid {daemon['pid']}, started {ago(since)}, version {daemon['version']}", style="dim")
    elif state == "stopped":
        line.append("   start it: persona daemon", style="dim")
    return line


def _traits(traits: list[Document]) -> Table:
    # What nobody has yet needs no column.
    shown = ["pending", *(name for name in ("claimed", "used", "quarantined") if any(trait[name] for trait in traits))]
    made = table("trait", "speaks", *shown, "why", right=shown)
    for trait in traits:
        why = Text(plain(trait["why"]), style="green" if trait["due"] else "")
        numbers = [str(trait[name]) for name in shown]
        made.add_row(f"{trait['persona']}:{trait['trait']}", _layer(trait["layer"]), *numbers, why)
    return made


def _layer(layer: Document | None) -> str:
    if layer is None:
        return "base"
    return f"v{layer['version']}" + (" pinned" if layer["pinned"] else "")


def _runs(runs: list[Document]) -> Table:
    made = table("run", "state", "steps", "")
    for run in runs:
        name = f"{run['persona']}:{run['trait']} v{run['version']}"
        made.add_row(name, run["state"], _bar(run), plain(_numbers(run)))
    return made


def _bar(run: Document) -> RenderableType:
    if run["steps"] is None:
        return ""
    return ProgressBar(total=run["steps"], completed=run["step"], width=16)


def _numbers(run: Document) -> str:
    """Where a training stands, in figures; of a run that waits, why."""
    if run["steps"] is None:
        return cut(run["reason"], 200) if run["reason"] else f"{run['corrections']} corrections"
    parts = [f"{run['step']}/{run['steps']}", f"loss {run['loss']:.3g}"]
    if run["learnt"] is not None:
        parts.append(f"{run['learnt']:.0%} learnt")
    if run["eta_s"] is not None:
        parts.append(f"≤ {run['eta_s']:.0f} s")
    return ", ".join(parts)


def _genomes(genomes: list[Document]) -> Table:
    made = table("persona", "revision", "speaks with", right=["revision"])
    for genome in genomes:
        traits = ", ".join(f"{trait} v{version}" for trait, version in genome["traits"].items())
        made.add_row(genome["persona"], str(genome["revision"]), traits or "the base model")
    return made


def _runtimes(runtimes: list[Document]) -> Table:
    made = table("runtime", "persona", "state", "serves", "")
    for runtime in runtimes:
        state = runtime["state"]
        colour = {"converged": "green", "unreachable": "red"}.get(state, "yellow")
        observed = "?" if runtime["observed"] is None else runtime["observed"]
        serves = f"{observed} of {runtime['desired']}" if runtime["persona"] else ""
        made.add_row(
            runtime["name"], runtime["persona"] or "", Text(state, style=colour), serves, plain(runtime["error"] or "")
        )
    return made
