"""Why a server on the network does not answer, in the system's plain words instead of a library's."""

import os
import socket
import ssl
from collections.abc import Iterator

import httpx


def in_words(error: httpx.HTTPError | httpx.InvalidURL, seconds: float) -> str:
    """What went wrong, as part of a sentence; `seconds` is how long an answer was waited for."""
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {seconds:g} s"
    for cause in _causes(error):
        match cause:
            case ssl.SSLCertVerificationError():
                return "its certificate is not to be trusted"
            case ssl.SSLError():
                return "it does not speak TLS"
            case socket.gaierror():
                return "no address is known by that name"
            case OSError() if cause.errno:
                return os.strerror(cause.errno).lower()
    if isinstance(error, httpx.InvalidURL):
        return "that is no address"
    if isinstance(error, httpx.NetworkError):
        return "the connection broke"
    if "disconnected" in str(error) or "closed" in str(error):
        return "it closed the connection too early"
    return "it does not speak HTTP"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """What an error came of, the nearest first; of several tries, the first."""
    while error is not None:
        yield error
        error = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__ or error.__context__
