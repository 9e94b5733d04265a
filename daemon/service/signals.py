"""Signals as the contract has them: handled while the service runs, and given back afterwards."""

import asyncio
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

Handlers = Mapping[signal.Signals, Callable[[], None]]


@contextmanager
def handled(handlers: Handlers) -> Iterator[None]:
    """Call a handler from the event loop for each signal, for as long as the context lasts."""
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)


@contextmanager
def cancelled_by(*numbers: signal.Signals) -> Iterator[None]:
    """Cancel the current task at any of these signals, for as long as the context lasts."""
    task = asyncio.current_task()
    assert task is not None

    def leave() -> None:
        task.cancel()

    # `asyncio.run` itself cancels between any two bytecodes: while a future is being set, that is a traceback.
    with handled(dict.fromkeys(numbers, leave)):
        yield
