"""`persona status`: what is pending and why, what runs, what speaks, what serves."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from daemon.cli import showing
from daemon.cli.options import ConfigOption, JsonOption, load_config
from daemon.cli.showing import ago, besides, console, count, lasting, plain, print_json
from daemon.cli.tables import Table
from daemon.errors import UsageInvalid

if TYPE_CHECKING:
    from daemon.config.settings import Config

Document = dict[str, Any]
_REFRESH_S = 1.0
_BAR = 16
"""Columns of a progress bar."""


def status(
    config: ConfigOption = None,
    watch: Annotated[bool, typer.Option("--watch", help="Keep showing it, until Ctrl-C.")] = False,
    json: JsonOption = False,
) -> None:
    """Show what is pending and why, what runs, speaks and serves."""
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
    down = document["daemon"]["state"] == "stopped"
    if document["traits"]:
        parts += ["", _traits(document["traits"])]
    else:
        parts += ["", Text("No corrections yet; write one: persona corrections add --help", style="dim")]
    if document["runs"]:
        parts += ["", _runs(document["runs"], down=down)]
    if document["genomes"]:
        parts += ["", _genomes(document["genomes"])]
    return Group(*parts, "", _runtimes(document["runtimes"], down=down))


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
    more = [name for name in ("claimed", "used", "quarantined") if any(trait[name] for trait in traits)]
    made = Table(
        "trait", "speaks", "pending", "affirmed", *more, "why",
        right=["pending", "affirmed", *more], names=["trait"], wrap=["why"],
    )  # fmt: skip
    for trait in traits:
        # Corrections are what `why` counts; affirmations wait with them, and make nothing due.
        corrections = str(trait["pending"] - trait["affirmations"])
        affirmed = f"+{trait['affirmations']}" if trait["affirmations"] else ""
        why = Text(plain(trait["why"]), style="green" if trait["due"] else "")
        numbers = [str(trait[name]) for name in more]
        name = f"{trait['persona']}:{trait['trait']}"
        made.add_row(name, _layer(trait["layer"]), corrections, affirmed, *numbers, why)
    return made


def _layer(layer: Document | None) -> str:
    if layer is None:
        return "base"
    return f"v{layer['version']}" + (" pinned" if layer["pinned"] else "")


def _runs(runs: list[Document], *, down: bool) -> Table:
    made = Table("run", "state", "progress", "", names=["run"], wrap=[""])
    for run in runs:
        name = f"{run['persona']}:{run['trait']} v{run['version']}"
        made.add_row(name, run["state"], _bar(run), _numbers(run, down=down))
    return made


def _bar(run: Document) -> Text:
    if run["steps"] is None:
        return Text()
    done = _BAR * run["step"] // max(run["steps"], 1)
    return Text.assemble(("━" * done, "cyan"), ("─" * (_BAR - done), "dim"))


def _numbers(run: Document, *, down: bool) -> str:
    """Where a training stands, in figures; of a run that waits, why."""
    if run["steps"] is None:
        return "; ".join(["waits for a daemon"] * down + [_waiting(run, down=down)])
    parts = [f"{run['step']}/{run['steps']}", f"loss {run['loss']:.3g}"]
    if run["learnt"] is not None:
        parts.append(f"{run['learnt']:.0%} learnt")
    if run["eta_s"] is not None:
        parts.append(f"≤ {lasting(run['eta_s'])}")
    if run["tokens_s"]:
        parts.append(f"{run['tokens_s']:,.0f} tokens/s")
    if run["memory_gb"]:
        parts.append(f"{run['memory_gb']:.1f} GiB")
    return ", ".join([*parts, *_besides(run)])


def _besides(run: Document) -> list[str]:
    """What goes on that is no training step."""
    if run["state"] == "rejected":
        return ["looking for who is to blame"]
    return [doing] if (doing := besides(run["doing"], run["state"])) else []


def _waiting(run: Document, *, down: bool) -> str:
    """What is known of a run that has no figures to show."""
    if run["reason"] and run["state"] == "planned":
        again = f"; tried again in {lasting(run['again_in_s'])}" if run["again_in_s"] and not down else ""
        return f"{run['reason']}{again}"
    if run["reason"] and run["attempt"] > 1:
        # The reason is that of the attempt before; it says nothing of this one.
        return "; ".join([f"attempt {run['attempt']}", *_besides(run), f"the one before: {run['reason']}"])
    held = "what it had learnt" if run["purpose"] == "relearn" else count(run["corrections"], "correction")
    return ", ".join([held, *_besides(run)])


def _genomes(genomes: list[Document]) -> Table:
    made = Table("persona", "revision", "speaks with", right=["revision"], names=["persona"], wrap=["speaks with"])
    for genome in genomes:
        traits = ", ".join(f"{trait} v{version}" for trait, version in genome["traits"].items())
        made.add_row(genome["persona"], str(genome["revision"]), traits or "the base model")
    return made


def _runtimes(runtimes: list[Document], *, down: bool) -> Table:
    made = Table("runtime", "persona", "state", "revision", "error", names=["runtime", "persona"], wrap=["error"])
    for runtime in runtimes:
        # Nobody closes the difference while no daemon runs.
        state = "not looked at" if down and runtime["state"] == "converging" else runtime["state"]
        colour = {"converged": "green", "unreachable": "red"}.get(state, "yellow")
        made.add_row(
            runtime["name"], runtime["persona"] or "", Text(state, style=colour), _revision(runtime),
            runtime["error"] or "",
        )  # fmt: skip
    return made


def _revision(runtime: Document) -> str:
    """What a runtime serves and, where that is another, what it is to serve."""
    if not runtime["persona"]:
        return ""
    observed = "?" if runtime["observed"] is None else str(runtime["observed"])
    return observed if observed == str(runtime["desired"]) else f"{observed} → {runtime['desired']}"
