"""What systemd is told, through a real socket."""

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemon.service.notify import Notifier

Listen = Callable[[str], socket.socket]


@pytest.fixture
def listen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listen]:
    """Binds a service manager's socket to a name as NOTIFY_SOCKET has it."""
    opened = []

    def bound(name: str) -> socket.socket:
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        manager.settimeout(60)
        manager.bind("\0" + name[1:] if name.startswith("@") else name)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        opened.append(manager)
        return manager

    yield bound
    for manager in opened:
        manager.close()


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, listen: Listen, tmp_path: Path) -> socket.socket:
    return listen(str(tmp_path / "notify") if request.param == "file" else f"@persona-test-{os.getpid()}")


def test_every_notification_is_one_datagram(manager: socket.socket) -> None:
    notifier = Notifier()
    notifier.ready()
    notifier.status("training ada:rust")
    notifier.alive()
    notifier.stopping()
    said = [manager.recv(4096).decode() for _ in range(4)]
    assert said == ["READY=1", "STATUS=training ada:rust", "WATCHDOG=1", "STOPPING=1"]


def test_a_reload_carries_the_monotonic_time(manager: socket.socket) -> None:
    Notifier().reloading()
    first, second = manager.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    assert second.removeprefix("MONOTONIC_USEC=").isdigit() and second.startswith("MONOTONIC_USEC=")


def test_without_a_manager_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Notifier().ready()


@pytest.mark.parametrize("address", ["/nowhere/notify", "@nobody-listens-here", "vsock:2:1234", "x" * 200])
def test_a_manager_that_is_gone_stops_nobody(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    Notifier().ready()


def test_a_manager_that_does_not_read_holds_up_nobody(listen: Listen, tmp_path: Path) -> None:
    listen(str(tmp_path / "notify"))
    notifier = Notifier()
    for _ in range(2_000):
        notifier.status("x" * 1_000)


@pytest.mark.parametrize(
    ("microseconds", "pid", "seconds"),
    [("30000000", "", 30.0), ("30000000", "own", 30.0), ("30000000", "1", None), ("", "", None), ("soon", "", None)],
)
def test_the_watchdog_is_served_when_it_asks_this_process(
    monkeypatch: pytest.MonkeyPatch, microseconds: str, pid: str, seconds: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
    assert Notifier().watchdog_s == seconds
