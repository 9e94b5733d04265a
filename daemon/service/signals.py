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
