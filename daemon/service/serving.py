"""`persona serve` as a service: the server, told what the config says, with systemd told how it fares."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from daemon.config.settings import Config
from daemon.errors import StoreError
from daemon.serve.listener import bind, url_of
from daemon.service.logs import configure_logs
from daemon.service.notify import Notifier
from daemon.service.state import LiveConfig
from daemon.service.watching import saved
from daemon.store.failures import as_sentences
from daemon.store.store import open_store

if TYPE_CHECKING:
    from daemon.serve.server import Change, Speakers


async def serve(config: Config) -> None:
    """Serve until asked to stop; raises PersonaError when it cannot."""
    # Nothing begins here that a Ctrl-C would have to finish, and the event loop's handler is deaf during an import.
    # SIGTERM is at its default already; once requests are taken, the server handles both.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # One that came a moment before was the loop's to tell: this is where it does.
    await asyncio.sleep(0)
    configure_logs(config.log)
    notifier = Notifier()
    # Before torch is imported, which takes seconds: whoever started us wants to know at once that a port is taken.
    with bind(config.serve.host, config.serve.port, config.serve.token.get_secret_value()) as listener:
        url = url_of(listener)
        notifier.status(f"starting; it will serve at {url}")
        structlog.get_logger().info("server.starting", url=url)
        await _serve(config, listener, notifier)


async def _serve(config: Config, listener: socket.socket, notifier: Notifier) -> None:
    # Threads that spin while they wait starve each other on shared cores; read once, when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from daemon.serve.server import ServeSettings, serve

    def ready(url: str) -> None:
        notifier.status(f"serving at {url}")
        notifier.ready()

    default, personas = _speakers(config)
    settings = ServeSettings(
        layers=Path(config.layers.directory),
        default=default,
        personas=personas,
        token=config.serve.token.get_secret_value(),
        memory=int(config.serve.memory_gb * 10**9),
        max_tokens=config.serve.max_tokens,
        threads=config.serve.threads,
        grace=config.service.grace,
    )

    life = asyncio.create_task(_show_life(notifier))
    try:
        await serve(settings, listener, partial(corrected, config.store.path), _changes(config), ready)
    finally:
        notifier.stopping()
        life.cancel()


def _speakers(config: Config) -> "Speakers":
    """What the config says of every persona, those that it does not name included."""
    from daemon.serve.roster import Speaker

    named = {persona: config.persona(persona) for persona in config.personas}
    return (
        Speaker(config.defaults.base_model, config.defaults.system_prompt),
        {persona: Speaker(said.base_model, said.system_prompt) for persona, said in named.items()},
    )


async def _changes(config: Config) -> "AsyncIterator[Change]":
    """What the config says of personas and of the grace, whenever a saved one says something else."""
    live = LiveConfig(config)
    async for _ in saved(live):
        if live.reload():
            configure_logs(live().log)
            yield _speakers(live()), live().service.grace


async def corrected(store: Path) -> Collection[str]:
    """Every persona that anyone ever corrected, none while there is no store; raises StoreError when it cannot say."""
    try:
        if not await asyncio.to_thread(store.exists):
            return ()
    except OSError as error:
        raise StoreError(f"The store {store} cannot be reached: {error.strerror}.") from None
    with as_sentences(store):
        async with open_store(store) as opened:
            return await opened.corrections.personas()


async def _show_life(notifier: Notifier) -> None:
    while period := notifier.watchdog_s:
        notifier.alive()
        await asyncio.sleep(period / 2)
