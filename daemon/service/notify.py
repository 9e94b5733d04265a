"""What systemd is told: readiness, status, reloads, life signs (sd_notify(3)); nothing where there is no systemd."""

import os
import socket
import time
from contextlib import suppress

_DATAGRAM = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK


class Notifier:
    """Sends datagrams to the socket that the service manager named, if it named one."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")

    def ready(self) -> None:
        """Start-up, or a reload, is complete."""
        self._send("READY=1")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={text}")

    def stopping(self) -> None:
        """The stop begins."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """The watchdog's sign of life."""
        self._send("WATCHDOG=1")

    @property
    def watchdog_s(self) -> float | None:
        """How often the manager wants a sign of life, in seconds; None when it wants none from this process."""
        microseconds, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
        if not microseconds.isdigit() or (pid and pid != str(os.getpid())):
            return None
        return int(microseconds) / 1e6

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # A name that begins with @ lies in the abstract namespace.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        # A manager that is gone, or does not read, is no reason to stop.
        with suppress(OSError), socket.socket(socket.AF_UNIX, _DATAGRAM) as channel:
            channel.connect(address)
            channel.sendall(message.encode())
