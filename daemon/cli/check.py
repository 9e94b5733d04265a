"""`persona check`: one line for everything that the daemon needs."""

import asyncio
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from daemon.cli import showing
from daemon.cli.options import ConfigOption, JsonOption, load_config
from daemon.cli.showing import print_json
from daemon.cli.tables import Table
from daemon.errors import ConfigInvalid

if TYPE_CHECKING:
    from daemon.config.settings import Config
    from daemon.service.checks import Finding


def check(config: ConfigOption = None, json: JsonOption = False) -> None:
    """See whether everything is in place: ok, or what to do.

    Config, store, layers, base models, trainer and runtimes have one line each.
    """
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
    made = Table("name", "word", "says", wrap=["says"], header=False)
    for finding in found:
        word = Text("ok", style="green") if finding.ok else Text("wrong", style="red")
        made.add_row(finding.name, word, finding.says)
    return made
