"""`persona serve`: gateway, engines and follower as one process, from the first look to the last answer."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
KnownPersonas = Callable[[], Awaitable[Collection[str]]]
"""Who else may be spoken with; raises PersonaError (503 to whoever asks for somebody unheard of) when nobody knows."""
Ready = Callable[[str], None]


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
    changes: AsyncIterator[Speakers] | None = None,
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
    changes: AsyncIterator[Speakers] | None = None,
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
    grace = max(1, int(settings.grace))
    server = Server(
        uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=grace)
    )
    parts: list[asyncio.Task[Any]] = [following, asyncio.create_task(engines.died.wait(), name="engines")]
    if changes is not None:
        parts.append(asyncio.create_task(_heed(roster, changes), name="config"))
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


async def _heed(roster: Roster, changes: AsyncIterator[Speakers]) -> None:
    async for default, configured in changes:
        roster.configure(default, configured)


def _announce(url: str, ready: Ready | None) -> None:
    structlog.get_logger().info("server.ready", url=url)
    if ready is not None:
        ready(url)


@contextmanager
def _signals(server: Server) -> Iterator[None]:
    """The first SIGTERM or SIGINT lets requests under way finish; the second ends them."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.force_exit = server.should_exit
        server.should_exit = True

    handled = (signal.SIGTERM, signal.SIGINT)
    for number in handled:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
