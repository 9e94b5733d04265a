"""The address that the server answers at: bound before anything slow is done, opened when requests can be taken."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from daemon.config.values import is_loopback
from daemon.errors import ConfigInvalid, PersonaError

_PRIVILEGED: Final = 1024
"""Ports below this one are for root, unless the kernel is told otherwise."""


def bind(host: str, port: int, token: str) -> socket.socket:
    """A socket at this address, where connections are still refused; raises ConfigInvalid or PersonaError."""
    if not token and not is_loopback(host):
        raise ConfigInvalid(f"[serve] host {host} can be reached from outside; set serve.token, or host to 127.0.0.1.")
    with _as_sentences(host, port):
        # A name may stand for addresses of both kinds; clients that were given one try IPv4 in any case.
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, where = min(found, key=lambda one: one[0] != socket.AF_INET)
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            # Or a restart would have to wait until the last connections of the server before are forgotten.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind(where)
        except OSError:
            listener.close()
            raise
    return listener


def listen(listener: socket.socket) -> None:
    """Take connections from here on; raises PersonaError when another process that was bound, too, came first."""
    host, port = listener.getsockname()[:2]
    with _as_sentences(host, port):
        listener.listen()


def url_of(listener: socket.socket) -> str:
    """Where clients of this machine find a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _as_sentences(host: str, port: int) -> Iterator[None]:
    """Turn the system's refusals into PersonaErrors."""
    try:
        yield
    except (OSError, UnicodeError) as error:
        raise PersonaError(f"The server cannot listen at {host} port {port}: {_reason(error, port)}") from None


def _reason(error: OSError | UnicodeError, port: int) -> str:
    """What is wrong, and what to do."""
    if isinstance(error, UnicodeError | socket.gaierror):
        return "no address is known by that name. Set serve.host to one of this machine's, such as 127.0.0.1."
    match error.errno:
        case errno.EADDRINUSE:
            return "address already in use. Stop what uses it, or set serve.port."
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address. Set serve.host to one that it has, such as 127.0.0.1."
        case errno.EACCES if port < _PRIVILEGED:
            return f"permission denied. Ports below {_PRIVILEGED} are root's; set serve.port to a higher one."
    # What Python adds to the system's words repeats the address.
    words = os.strerror(error.errno).lower() if error.errno else str(error)
    return f"{words}. Set serve.host and serve.port."
