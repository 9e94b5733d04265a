"""`persona check`: one line for everything that the daemon needs."""

import asyncio
from typing import TYPE_CHECKING

import typer
from rich.table import Table
from rich.text import Text

from daemon.cli import showing
from daemon.cli.options import ConfigOption, JsonOption, load_config
from daemon.cli.showing import plain, print_json
from daemon.errors import ConfigInvalid

if TYPE_CHECKING:
    from daemon.config.settings import Config
    from daemon.service.checks import Finding


def check(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Look at config, store, layers, base models, trainer and runtimes: one line each, ok or what to do."""
    from daemon.service.checks import Finding

    try:
        loaded = load_config(config)
        found = [Finding("config", True, str(loaded.source)), *asyncio.run(_found(loaded))]
        code = 0 if all(finding.ok for finding in found) else 1
    except ConfigInvalid as error:
        found, code = [Finding("config", False, str(error))], error.exit_code
    if json:
        checks = [{"name": finding.name, "ok": finding.ok, "says": finding.says} for finding in found]
        print_json({"ok": code == 0, "checks": checks})
    else:
        showing.show(_table(found))
    raise typer.Exit(code)


async def _found(config: "Config") -> "list[Finding]":
    from daemon.service.checks import findings

    return [finding async for finding in findings(config)]


def _table(found: "list[Finding]") -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for finding in found:
        word = Text("ok", style="green") if finding.ok else Text("wrong", style="red")
        grid.add_row(finding.name, word, plain(finding.says))
    return grid
