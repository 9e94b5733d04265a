"""A signal that comes amid what must not be torn apart."""

import asyncio
import signal
from concurrent.futures import Future
from typing import Any

import pytest

from daemon.service.signals import cancelled_by


class _Struck(Future[int]):
    """A thread's answer during whose handing over a SIGINT comes."""

    def result(self, timeout: float | None = None) -> int:
        signal.raise_signal(signal.SIGINT)
        return super().result(timeout)


def test_a_signal_while_an_answer_is_handed_over_cancels_and_tears_nothing() -> None:
    torn: list[dict[str, Any]] = []
    answer = _Struck()

    async def waiting() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: torn.append(context))
        loop.call_soon(answer.set_result, 1)
        with cancelled_by(signal.SIGINT):
            await asyncio.wrap_future(answer)
            await asyncio.sleep(60)

    with pytest.raises((asyncio.CancelledError, KeyboardInterrupt)):
        asyncio.run(waiting())
    assert torn == []
