"""What a client did wrong, or the server could not do, in the shape that OpenAI's clients read."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from daemon.genome.validation import complaint

_KINDS: Final = {400: "invalid_request_error", 401: "authentication_error", 404: "invalid_request_error"}
_RETRY_AFTER: Final = 2
"""Seconds; what a client is told that comes while something is being loaded."""


class Refusal(Exception):
    """An HTTP answer other than the asked one; the message is a sentence."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(status, message, param, code)
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    def body(self) -> dict[str, Any]:
        """The error as OpenAI writes it."""
        kind = _KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The error as an HTTP response."""
        headers = {"www-authenticate": "Bearer"} if self.status == 401 else {}
        if self.status == 503:
            headers["retry-after"] = str(_RETRY_AFTER)
        return JSONResponse(self.body(), self.status, headers)


def install(app: FastAPI) -> None:
    """Let every error of an app leave in that shape."""

    async def refused(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refusal)
        return error.response()

    async def invalid(_request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return _of_validation(error.errors()[0]).response()

    async def unknown(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        response = _of_http(error.status_code, request).response()
        response.headers.update(error.headers or {})
        return response

    async def broken(_request: Request, _error: Exception) -> JSONResponse:
        return Refusal(500, "The server failed at this request; its log says more.").response()

    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, unknown)
    app.add_exception_handler(Exception, broken)


def _of_http(status: int, request: Request) -> Refusal:
    if status == 404:
        return Refusal(404, f"There is nothing at {request.url.path}.", code="unknown_url")
    if status == 405:
        return Refusal(405, f"{request.url.path} does not take {request.method}.", code="method_not_allowed")
    return Refusal(status, f"The request to {request.url.path} cannot be answered.")


def _of_validation(problem: Mapping[str, Any]) -> Refusal:
    """One problem that pydantic found, in words."""
    place = _place(problem["loc"])
    if problem["type"] == "json_invalid" or not place:
        return Refusal(400, "The body is not a JSON object with content-type application/json.", code="invalid_json")
    return Refusal(400, f"{place} {complaint(problem['type'], problem.get('ctx', {}))}.", place, "invalid_value")


def _place(location: Sequence[str | int]) -> str:
    """Where in the body: messages[0].content."""
    place = ""
    for part in location[1:]:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part != "str" and not part.startswith("list["):  # which of several allowed types was tried
            place += f".{part}" if place else part
    return place
