"""The gateway: OpenAI's API over the roster, and what operators ask."""

import asyncio
import hmac
from collections.abc import Awaitable
from typing import Any, Final, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp, Receive, Scope, Send

from daemon import __version__
from daemon.errors import PersonaError
from daemon.runtimes.embedded import GenomesReport
from daemon.serve.answering import refusal_of, respond
from daemon.serve.asks import Ask
from daemon.serve.metrics import Metrics
from daemon.serve.protocol import ChatAsked, TextAsked
from daemon.serve.refusals import Refusal, install
from daemon.serve.roster import Roster, unknown_model
from daemon.training.engine.chat import with_system

T = TypeVar("T")
PATIENCE: Final = 120.0
"""Seconds that a request waits for a base model that is being loaded."""
_OPEN: Final = frozenset({"/healthz", "/readyz"})
"""What answers without a token: it says nothing of anyone."""


class TokenGuard:
    """Lets only requests through that carry the bearer token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401."""
        if scope["type"] != "http" or scope["path"] in _OPEN or self._carries_token(scope):
            await self._app(scope, receive, send)
            return
        refusal = Refusal(401, "The bearer token is missing or wrong.", code="invalid_api_key")
        await refusal.response()(scope, receive, send)

    def _carries_token(self, scope: Scope) -> bool:
        sent = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(sent, self._expected)


def build_app(roster: Roster, metrics: Metrics, max_tokens: int, token: str = "") -> FastAPI:
    """The application; `max_tokens` is the longest answer where a request names no limit."""
    app = FastAPI(title="persona serve", version=__version__, docs_url=None, redoc_url=None)
    install(app)
    if token:
        app.add_middleware(TokenGuard, token=token)
    _add_completions(app, roster, metrics, max_tokens)
    _add_listings(app, roster)
    _add_operations(app, roster, metrics)
    return app


def _add_completions(app: FastAPI, roster: Roster, metrics: Metrics, max_tokens: int) -> None:
    @app.post("/v1/chat/completions")
    async def chat(request: Request, asked: ChatAsked) -> Response:
        asked.refuse_unsupported()
        messages, sampling = asked.conversation(), asked.sampling(max_tokens)
        turn = await _patiently(roster.turn(asked.model), asked.model)
        ask = Ask(with_system(messages, turn.system_prompt), sampling, turn.layer)
        return await respond(request, asked, ask, turn, metrics)

    @app.post("/v1/completions")
    async def complete(request: Request, asked: TextAsked) -> Response:
        asked.refuse_unsupported()
        text, sampling = asked.text(), asked.sampling(max_tokens)
        turn = await _patiently(roster.turn(asked.model), asked.model)
        return await respond(request, asked, Ask(text, sampling, turn.layer), turn, metrics)


def _add_listings(app: FastAPI, roster: Roster) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        names = [*roster.base_names()]
        for report in roster.reports():
            names += [report.persona, *(f"{report.persona}:{trait}" for trait in report.traits)]
        return {"object": "list", "data": [_model(name) for name in names]}

    # A base model of the hub has a slash in its name.
    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if not await _patiently(roster.has(name), name):
            raise unknown_model(name)
        return _model(name)

    @app.get("/v1/genomes")
    async def genomes() -> GenomesReport:
        return GenomesReport(genomes=roster.reports())


def _add_operations(app: FastAPI, roster: Roster, metrics: Metrics) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        missing = roster.problems()
        answer = {"ready": not missing, "problems": [*missing, *roster.shortfalls()]}
        return JSONResponse(answer, 503 if missing else 200)

    @app.get("/metrics")
    async def prometheus() -> PlainTextResponse:
        return PlainTextResponse(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _model(name: str) -> dict[str, Any]:
    """A model as OpenAI's API describes it."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "persona-daemon"}


async def _patiently(work: Awaitable[T], model: str) -> T:
    """What the roster says of a model, as soon as what that takes is loaded; raises Refusal."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await work
    except PersonaError as error:
        raise refusal_of(error) from None
    except TimeoutError:
        raise Refusal(503, f"What {model} needs is still being loaded; ask again in a moment.") from None
