"""The `persona` command: every noun's commands under one roof, errors as one sentence, exit codes as promised."""

import sys

import typer
from rich.console import Console

from daemon.cli import service
from daemon.errors import PersonaError

app = typer.Typer(
    name="persona",
    help="Turns the corrections people give an AI persona into layers it speaks with.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("daemon")(service.daemon)
app.command("serve")(service.serve)


def main() -> None:
    """Run a command; what goes wrong on purpose is a sentence on standard error and an exit code."""
    try:
        app()
    except PersonaError as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(str(error), style="red", markup=False)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
