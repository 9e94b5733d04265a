"""`persona daemon` and `persona serve`: the two processes."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from daemon.cli.options import ConfigOption, load_config
from daemon.errors import NothingToDo, PersonaError

if TYPE_CHECKING:
    from daemon.config.settings import Config


def daemon(
    config: ConfigOption = None,
    once: Annotated[bool, typer.Option("--once", help="Do what is due now, then leave.")] = False,
) -> None:
    """Run the service: watch the store, train what is due, promote what is better."""
    with _in_the_log("daemon.failed"):
        loaded = load_config(config)
        from daemon.service import lifecycle

        if not once:
            asyncio.run(lifecycle.serve(loaded))
            return
        raise typer.Exit(_once(loaded))


def serve(config: ConfigOption = None) -> None:
    """Serve the personas: an OpenAI-compatible API over the embedded engine."""
    with _in_the_log("server.failed"):
        loaded = load_config(config)
        from daemon.service import serving

        asyncio.run(serving.serve(loaded))


def _once(config: "Config") -> int:
    """Do what is due; the exit code that says what came of it."""
    from daemon.cli.following import STOPPED, exit_code
    from daemon.cli.showing import hint
    from daemon.service import lifecycle

    try:
        return exit_code(asyncio.run(lifecycle.once(config)))
    except asyncio.CancelledError:
        hint(STOPPED)
        raise


@contextmanager
def _in_the_log(event: str) -> Iterator[None]:
    """Tell the log, where it is read by programs, why the process leaves; on a terminal the sentence is enough."""
    try:
        yield
    except PersonaError as error:
        if sys.stderr.isatty() or isinstance(error, NothingToDo):
            raise
        import structlog

        from daemon.config.sections import Log
        from daemon.service.logs import configure_logs

        if not structlog.is_configured():
            # The config is what is wrong; its defaults are not.
            configure_logs(Log())
        structlog.get_logger().critical(event, reason=str(error))
        raise typer.Exit(error.exit_code) from None
