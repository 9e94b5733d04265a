"""`persona daemon` and `persona serve`: the two processes."""

import asyncio
from typing import Annotated

import typer

from daemon.cli.options import ConfigOption, load_config


def daemon(
    config: ConfigOption = None,
    once: Annotated[bool, typer.Option("--once", help="Do what is due now, then leave.")] = False,
) -> None:
    """Run the service: watch the store, train what is due, promote what is better."""
    from daemon.service import lifecycle

    asyncio.run(lifecycle.once(load_config(config)) if once else lifecycle.serve(load_config(config)))


def serve(config: ConfigOption = None) -> None:
    """Serve the personas: an OpenAI-compatible API over the embedded engine."""
    from daemon.service import serving

    asyncio.run(serving.serve(load_config(config)))
