"""`persona serve`: gateway, engines and follower as one process, from the first look to the last answer."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog
import uvicorn

from daemon.errors import PersonaError
from daemon.genome.directories import LayerDirectories
from daemon.serve.engines import Engines
from daemon.serve.follower import BEAT, Follower
from daemon.serve.gateway import build_app
from daemon.serve.listener import listen, url_of
from daemon.serve.metrics import Metrics
from daemon.serve.roster import Roster, Speaker

Speakers = tuple[Speaker, Mapping[str, Speaker]]
"""What the config says of who is in none of its sections, and of each that is."""
Change = tuple[Speakers, float]
"""What a saved config says of speakers, and how long a stop may take in seconds."""
KnownPersonas = Callable[[], Awaitable[Collection[str]]]
"""Who else may be spoken with; raises PersonaError (503 to whoever asks for somebody unheard of) when nobody knows."""
Ready = Callable[[str], None]
_FOR_REQUESTS: Final = 0.9
"""Share of the grace after which requests under way are ended; the rest is for what they held."""


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """What a server needs to know; `memory` in bytes of layers per base model, `grace` and `beat` in seconds."""

    layers: Path
    default: Speaker
    personas: Mapping[str, Speaker] = field(default_factory=dict)
    token: str = ""
    memory: int = 2 * 10**9
    max_tokens: int = 512
    threads: int = 0
    grace: float = 20.0
    beat: float = BEAT


async def serve(
    settings: ServeSettings,
    listener: socket.socket,
    known_personas: KnownPersonas | None = None,
    changes: AsyncIterator[Change] | None = None,
    ready: Ready | None = None,
) -> None:
    """Serve at a bound socket until SIGTERM or SIGINT, `ready` being told the URL; raises PersonaError."""
    # Before any model is loaded: two servers that were started at the same moment were both let in so far.
    listen(listener)
    async with running(settings, known_personas, changes) as server:
        server.announce = lambda: _announce(url_of(listener), ready)
        with _signals(server):
            await server.serve(sockets=[listener])
    structlog.get_logger().info("server.stopped")


class Server(uvicorn.Server):
    """Uvicorn that leaves the signals to `serve`: its own would raise a signal again after the stop."""

    announce: Callable[[], None] | None = None
    """Called once requests are taken."""
    grace: float
    """Seconds that a stop may take."""
    loading: Callable[[], bool]
    """Whether a thread is at work that cannot be called off."""

    def allow(self, grace: float) -> None:
        """Say how many seconds a stop may take."""
        self.grace = grace
        # Uvicorn hands it to asyncio, which takes fractions.
        self.config.timeout_graceful_shutdown = grace * _FOR_REQUESTS  # type: ignore[assignment]

    def stop(self) -> None:
        """Let requests under way finish, and leave when the grace is over; asked again, wait for none of them."""
        if self.should_exit:
            self.force_exit = True
            if self.loading():
                os._exit(1)
            return
        self.should_exit = True
        # Whoever runs the loop waits at its end for every thread, one that loads gigabytes included: the timer, which
        # outlives what is served, does not. Nothing is lost with it.
        asyncio.get_running_loop().call_later(self.grace, os._exit, 1)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and say so."""
        await super().startup(sockets)
        if self.announce is not None:
            self.announce()


@asynccontextmanager
async def running(
    settings: ServeSettings,
    known_personas: KnownPersonas | None = None,
    changes: AsyncIterator[Change] | None = None,
) -> AsyncIterator[Server]:
    """Everything but the socket: engines that load, a follower that follows, an app to be served."""
    directories = LayerDirectories(settings.layers)
    directories.ensure_readable()
    engines = Engines(directories, settings.memory, settings.threads)
    roster = Roster(engines, settings.default, settings.personas, known_personas)
    app = build_app(roster, Metrics(roster), settings.max_tokens, settings.token)
    following = asyncio.create_task(Follower(settings.layers, roster, settings.beat).run(), name="follower")
    for base_model in roster.bases():
        engines.start(base_model)
    server = Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
    server.allow(settings.grace)
    server.loading = engines.loading
    parts: list[asyncio.Task[Any]] = [following, asyncio.create_task(engines.died.wait(), name="engines")]
    if changes is not None:
        parts.append(asyncio.create_task(_heed(roster, server, changes), name="config"))
    for task in parts:
        # What ends by itself takes the server down: better restarted than deaf or dumb.
        task.add_done_callback(lambda _: setattr(server, "should_exit", True))
    try:
        yield server
    finally:
        ended = [task for task in parts if task.done()]
        for task in parts:
            task.cancel()
        await asyncio.gather(*parts, return_exceptions=True)
        await engines.close()
    for task in ended:
        task.result()
        raise PersonaError("The server stopped because a part of it ended; its log says why.")


async def _heed(roster: Roster, server: Server, changes: AsyncIterator[Change]) -> None:
    async for (default, configured), grace in changes:
        roster.configure(default, configured)
        server.allow(grace)


def _announce(url: str, ready: Ready | None) -> None:
    structlog.get_logger().info("server.ready", url=url)
    if ready is not None:
        ready(url)


@contextmanager
def _signals(server: Server) -> Iterator[None]:
    """The first SIGTERM or SIGINT lets requests under way finish; the second ends them."""
    loop = asyncio.get_running_loop()
    handled = (signal.SIGTERM, signal.SIGINT)
    for number in handled:
        loop.add_signal_handler(number, server.stop)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
