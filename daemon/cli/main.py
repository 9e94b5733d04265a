"""The `persona` command: every noun's commands under one roof, errors as one sentence, exit codes as promised."""

import asyncio
import io
import sys
from typing import Annotated

import typer

from daemon import __version__
from daemon.cli import check, corrections, genome, init, runs, service, showing, status, train
from daemon.errors import PersonaError

app = typer.Typer(
    name="persona",
    help="Turns the corrections people give an AI persona into layers it speaks with.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# In the order in which they are first needed.
app.command("init")(init.init)
app.command("check")(check.check)
app.command("daemon", short_help="Run the service that watches, trains and promotes.")(service.daemon)
app.command("serve", short_help="Serve the personas over an OpenAI-compatible API.")(service.serve)
app.command("status")(status.status)
app.command("train", short_help="Train what is pending now.")(train.train)
app.add_typer(corrections.app, name="corrections")
app.add_typer(runs.app, name="runs")
app.add_typer(genome.app, name="genome")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"persona-daemon {__version__}")
        raise typer.Exit


@app.callback()
def persona(
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the program's version.")
    ] = False,
) -> None:
    """Turns the corrections people give an AI persona into layers it speaks with."""


def main() -> None:
    """Run a command; what goes wrong on purpose is a sentence on standard error and an exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that cannot show a character shows another, rather than nothing.
        sys.stdout.reconfigure(errors="replace")
    try:
        app()
    except PersonaError as error:
        showing.console(stderr=True).print(showing.plain(str(error)), style="red", soft_wrap=True)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, asyncio.CancelledError):
        # Ctrl-C, or a signal that had the same meaning to the command.
        sys.exit(130)


if __name__ == "__main__":
    main()
