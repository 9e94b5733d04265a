"""The embedded engine: one thread per base model, which gives every request one token in turn."""

import asyncio
import queue
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Final, TypeVar

import structlog
import torch

from daemon.errors import EngineBusy, EngineStopped, PersonaError
from daemon.genome.persona_genome import LayerShelf
from daemon.serve.asks import Ask, Ended, Event, Failed, PromptRefused
from daemon.serve.engine_sequence import answer
from daemon.training.engine.base import Base

T = TypeVar("T")
ACTIVE: Final = 32
"""Requests that take turns; each holds a key-value cache, so the others wait."""
WAITING: Final = 512
"""Requests that may wait for a seat before more are turned away."""
_LEAVING: Final = "The server is leaving; ask again in a moment."


class _Seat:
    """One request at the table; `deliver` and `left` are safe to use from any thread."""

    def __init__(self, ask: Ask, deliver: Callable[[Event], None]) -> None:
        self.ask = ask
        self.deliver = deliver
        self.left = False
        self.turns: Iterator[Event | None] | None = None


class Engine:
    """Owns a loaded base and its layers; whatever touches them runs on its thread, between two turns."""

    def __init__(
        self, base: Base, shelf: LayerShelf, threads: int = 0, died: Callable[[], object] = lambda: None
    ) -> None:
        """Start the thread, on which `died` is called if it ends by itself."""
        self.base = base
        self.shelf = shelf
        self._threads = threads
        self._died = died
        self._inbox: queue.SimpleQueue[_Seat | Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting: deque[_Seat] = deque()
        self._seats: list[_Seat] = []
        self._present = 0
        self._counting = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._closed = False
        self._thread.start()

    @property
    def busy(self) -> int:
        """How many requests are being answered or wait."""
        return self._present

    async def call(self, work: Callable[[], T]) -> T:
        """Run something on the engine's thread, between two turns, and return what it returns."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[T] = loop.create_future()

        def chore() -> None:
            try:
                value = work()
            except Exception as error:  # noqa: BLE001 - it is the caller's, whatever it is
                _tell(loop, _fail, result, error)
            else:
                _tell(loop, _settle, result, value)

        self._put(chore)
        return await result

    async def answer(self, ask: Ask) -> AsyncGenerator[Event]:
        """What happens to one request, up to Ended or Failed; closing the generator cancels it."""
        loop = asyncio.get_running_loop()
        heard: asyncio.Queue[Event] = asyncio.Queue()
        seat = _Seat(ask, lambda event: _tell(loop, heard.put_nowait, event))
        try:
            if self.busy >= ACTIVE + WAITING:
                raise EngineBusy(f"More than {WAITING} requests wait already; ask again in a moment.")
            self._put(seat)
            self._count(1)
        except PersonaError as error:
            yield Failed(error)
            return
        try:
            while True:
                event = await heard.get()
                yield event
                if isinstance(event, Ended | Failed):
                    return
        finally:
            seat.left = True

    def trim(self) -> None:
        """Evict, between two turns, what is over budget and unused; said by whoever released a layer."""
        if not self._closed:
            self._inbox.put(self.shelf.trim)

    async def close(self) -> None:
        """End the thread after its current turn; requests still at work get EngineStopped."""
        if not self._closed:
            self._closed = True
            self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    def _put(self, item: _Seat | Callable[[], None]) -> None:
        if self._closed:
            raise EngineStopped(_LEAVING)
        self._inbox.put(item)

    def _count(self, change: int) -> None:
        # On its way from one list to the next a request is in neither, so the lists cannot be counted.
        with self._counting:
            self._present += change

    def _work(self) -> None:
        try:
            self._serve()
        except Exception as error:  # noqa: BLE001 - nobody else would ever hear of it
            structlog.get_logger().error("engine.died", error=type(error).__name__, exc_info=error)
            self._closed = True
            self._died()
        self._leave()

    def _serve(self) -> None:
        if self._threads:
            torch.set_num_threads(self._threads)
        while self._take_in():
            # Requests of one layer sit together, so that the layer changes as rarely as possible.
            for seat in sorted(self._seats, key=lambda seat: seat.ask.layer or ""):
                if not self._turn(seat):
                    self._seats.remove(seat)
                    self._count(-1)
                    self.shelf.trim()

    def _take_in(self) -> bool:
        """Seat who came and do the chores, waiting while there is nothing else to do; False when it is time to go."""
        idle = not self._seats and not self._waiting
        while True:
            try:
                item = self._inbox.get(block=idle)
            except queue.Empty:
                break
            if item is None:
                return False
            if isinstance(item, _Seat):
                self._waiting.append(item)
                idle = False
            else:
                item()
        while self._waiting and len(self._seats) < ACTIVE:
            self._seats.append(self._waiting.popleft())
        return True

    def _turn(self, seat: _Seat) -> bool:
        """Give one request its turn; False when it needs no further one."""
        if seat.left:
            return False
        try:
            self.shelf.activate(seat.ask.layer)
            if seat.turns is None:
                seat.turns = answer(self.base, seat.ask)
            event = next(seat.turns)
        except (PersonaError, PromptRefused) as error:
            event = Failed(error)
        except Exception as error:  # noqa: BLE001 - one request must not take the others with it
            structlog.get_logger().error("engine.failed", layer=seat.ask.layer, error=type(error).__name__)
            event = Failed(error)
        if event is not None:
            seat.deliver(event)
        return not isinstance(event, Ended | Failed)

    def _leave(self) -> None:
        """Answer everyone who still waits for something."""
        while not self._inbox.empty():
            item = self._inbox.get()
            if isinstance(item, _Seat):
                self._waiting.append(item)
            elif item is not None:
                item()
        for seat in [*self._seats, *self._waiting]:
            seat.deliver(Failed(EngineStopped(_LEAVING)))


def _tell(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *arguments: object) -> None:
    """Call something on the event loop, unless that has ended meanwhile and nobody listens."""
    try:
        loop.call_soon_threadsafe(function, *arguments)
    except RuntimeError:
        if not loop.is_closed():
            raise


def _settle(result: "asyncio.Future[T]", value: T) -> None:
    if not result.done():
        result.set_result(value)


def _fail(result: "asyncio.Future[T]", error: Exception) -> None:
    if not result.done():
        result.set_exception(error)
