"""One request from its model name to its last byte."""

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from daemon.errors import PersonaError
from daemon.serve.answers import Form, Usage
from daemon.serve.asks import Ask, Ended, Failed, Piece, PromptRefused, Started
from daemon.serve.metrics import Metrics
from daemon.serve.protocol import Asked
from daemon.serve.refusals import Refusal
from daemon.serve.roster import Turn

T = TypeVar("T")
_CLOSED_REQUEST = 499
"""What is noted of a client that left; nobody reads the answer."""


class Answering:
    """Asks the engine for one answer, counts it, and lets go of the layer whatever happens."""

    def __init__(self, turn: Turn, ask: Ask, form: Form, metrics: Metrics) -> None:
        self._turn = turn
        self._form = form
        self._metrics = metrics
        self._events = turn.engine.answer(ask)
        self._began = time.monotonic()
        self._prompt_tokens = 0
        self._outcome: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Who speaks."""
        return {"x-persona-layer": self._turn.label, "x-persona-revision": str(self._turn.revision)}

    async def begin(self) -> None:
        """Wait until the engine has taken the request in; raises Refusal."""
        event = await anext(self._events)
        if isinstance(event, Failed):
            raise self._refusal(event.error)
        assert isinstance(event, Started)
        self._prompt_tokens = event.prompt_tokens

    async def whole(self) -> JSONResponse:
        """The complete answer; raises Refusal."""
        await self.begin()
        text = ""
        async for event in self._events:
            if isinstance(event, Piece):
                text += self._heard(event)
            elif isinstance(event, Failed):
                raise self._refusal(event.error)
            elif isinstance(event, Ended):
                return JSONResponse(self._form.whole(text, event.reason, self._ended(event)), headers=self.headers)
        raise AssertionError("an answer ends with Ended or Failed")

    async def stream(self) -> AsyncGenerator[str]:
        """The answer as server-sent events, after `begin`."""
        yield self._form.first()
        async for event in self._events:
            if isinstance(event, Piece):
                yield self._form.piece(self._heard(event))
            elif isinstance(event, Failed):
                yield self._form.broken(self._refusal(event.error).body())
            elif isinstance(event, Ended):
                yield self._form.last(event.reason, self._ended(event))

    async def close(self) -> None:
        """Cancel what is not done, release the layer, and count the request."""
        await self._events.aclose()
        self._turn.close()
        self._metrics.requests.labels(self._turn.persona, self._outcome or "left").inc()

    def _heard(self, piece: Piece) -> str:
        if self._outcome is None:
            self._outcome = "left"
            self._metrics.first.labels(self._turn.persona).observe(time.monotonic() - self._began)
        return piece.text

    def _ended(self, event: Ended) -> Usage:
        self._outcome = event.reason.value
        usage = Usage(self._prompt_tokens, event.completion_tokens)
        self._metrics.tokens.labels(self._turn.persona, "prompt").inc(usage.prompt)
        self._metrics.tokens.labels(self._turn.persona, "completion").inc(usage.completion)
        self._metrics.seconds.labels(self._turn.persona).observe(time.monotonic() - self._began)
        return usage

    def _refusal(self, error: Exception) -> Refusal:
        self._outcome = "failed"
        if isinstance(error, PromptRefused):
            self._outcome = "refused"
            return Refusal(400, str(error), "messages" if self._form.chat else "prompt", "invalid_prompt")
        return refusal_of(error)


class _Streamed(StreamingResponse):
    """A stream that lets go of its layer even when the client left before its first byte."""

    def __init__(self, answering: Answering) -> None:
        super().__init__(answering.stream(), media_type="text/event-stream", headers=answering.headers)
        self.headers["cache-control"] = "no-cache"
        self._answering = answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._answering.close()


async def respond(request: Request, asked: Asked, ask: Ask, turn: Turn, metrics: Metrics) -> Response:
    """The answer to one request, streamed or whole; raises Refusal."""
    chat = not isinstance(ask.prompt, str)
    answering = Answering(turn, ask, Form(chat, asked.model, turn.fingerprint, asked.include_usage), metrics)
    if not asked.stream:
        try:
            return await _unless_gone(request, answering.whole())
        finally:
            await answering.close()
    try:
        await _unless_gone(request, answering.begin())
    except BaseException:
        await answering.close()
        raise
    return _Streamed(answering)


def refusal_of(error: Exception) -> Refusal:
    """What a client is told of an error on our side."""
    if isinstance(error, PersonaError):
        return Refusal(503, str(error), code="not_servable")
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return Refusal(500, "The server ran out of memory at this request; ask for less.", code="out_of_memory")
    return Refusal(500, "The model failed at this request; the server's log says more.", code="engine_failed")


async def _unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of some work, which ends when the client leaves."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Refusal(_CLOSED_REQUEST, "The client left.")
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
