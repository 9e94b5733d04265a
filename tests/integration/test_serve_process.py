"""The server as a process: signals, and a stop that finishes what it began."""

import asyncio
import errno
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from daemon.errors import PersonaError
from daemon.serve.listener import bind, listen
from daemon.serve.server import serve
from scripts.processes import Process, free_port
from tests.integration.cli_support import Desk
from tests.integration.serve_support import ASKED, House, Running, house_at, in_flight, reference, slowly, until

CHAT = "/v1/chat/completions"
PROGRAM = """
import asyncio, sys
from pathlib import Path
import structlog
from daemon.serve.listener import bind
from daemon.serve.roster import Speaker
from daemon.serve.server import ServeSettings, serve
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
layers, base = sys.argv[1:]
settings = ServeSettings(Path(layers), Speaker(base, "Be brief."), threads=1, grace=300)
with bind("127.0.0.1", 0, "") as listener:
    asyncio.run(serve(settings, listener, ready=lambda url: print(url, flush=True)))
"""


@pytest.fixture
def house(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> House:
    return house_at(tmp_path, tmp_path_factory.getbasetemp())


SLOW_TORCH = "import time; time.sleep(600)"
"""Stands in for a torch that takes long to come from the disk."""


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def loading(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    """`persona serve` in the middle of importing torch, for as long as the test takes."""
    (desk.folder / "slow").mkdir()
    (desk.folder / "slow" / "torch.py").write_text(SLOW_TORCH)
    monkeypatch.setenv("PYTHONPATH", str(desk.folder / "slow"))
    process = Process(("serve",), desk.folder, desk.folder / "serve.log")
    process.wait_for("server.starting", 120)
    yield process
    process.end(grace=0)


def test_it_says_that_it_starts_and_refuses_connections_until_it_can_answer(desk: Desk, loading: Process) -> None:
    (starting,) = loading.events("server.starting")
    assert starting["url"] == f"http://127.0.0.1:{desk.port}"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", desk.port), 10)
    assert loading.events("server.ready") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_start_can_be_ended_at_once(loading: Process, number: signal.Signals) -> None:
    loading.process.send_signal(number)
    assert loading.process.wait(120) == -number


def test_systemd_is_told_when_requests_are_taken_and_not_before(
    desk: Desk, house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.configure(defaults__base_model=str(house.base))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(120)
        manager.bind(str(desk.folder / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(desk.folder / "notify"))
        process = Process(("serve",), desk.folder, desk.folder / "serve.log")
        try:
            url = f"http://127.0.0.1:{desk.port}"
            said = [manager.recv(1000).decode() for _ in range(3)]
            assert said == [f"STATUS=starting; it will serve at {url}", f"STATUS=serving at {url}", "READY=1"]
            with socket.create_connection(("127.0.0.1", desk.port), 120):
                pass
            names = [event["event"] for event in process.events() if event["event"].startswith("server.")]
            assert names == ["server.starting", "server.ready"]
        finally:
            process.end()


PROMPT = """
import asyncio, sys
from daemon.config.settings import Config
from daemon.errors import PersonaError
from daemon.service import serving
try:
    asyncio.run(serving.serve(Config(serve={"host": sys.argv[1], "port": int(sys.argv[2]), "token": "t"})))
except PersonaError as error:
    print(error)
print("torch" in sys.modules)
"""


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        ("127.0.0.1", "address already in use. Stop what uses it, or set serve.port."),
        ("192.0.2.1", "this machine has no such address. Set serve.host to one that it has, such as 127.0.0.1."),
        ("nobody.invalid", "no address is known by that name. Set serve.host to one of this machine's, such as"),
        ("a..b", "no address is known by that name. Set serve.host to one of this machine's, such as"),
    ],
)
async def test_an_address_that_cannot_be_had_is_said_before_torch_is_loaded(host: str, sentence: str) -> None:
    with bind("127.0.0.1", 0, "") as taken:
        listen(taken)
        port = taken.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROMPT, host, str(port), stdout=asyncio.subprocess.PIPE
        )
        said, _ = await asyncio.wait_for(process.communicate(), 120)
    first, torch = said.decode().splitlines()
    assert first.startswith(f"The server cannot listen at {host} port {port}: {sentence}")
    assert torch == "False"


def test_a_port_of_roots_gets_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    # Who runs the tests may be root.
    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(PersonaError, match=r"port 80: permission denied\. Ports below 1024 .* set serve\.port"):
        bind("127.0.0.1", 80, "")


def test_of_two_that_were_started_at_once_the_later_gets_the_sentence() -> None:
    with bind("127.0.0.1", 0, "") as first:
        port = first.getsockname()[1]
        with bind("127.0.0.1", port, "") as second:
            listen(second)
            with pytest.raises(PersonaError, match=rf"127\.0\.0\.1 port {port}: address already in use\."):
                listen(first)


def test_an_open_address_without_a_token_is_refused() -> None:
    with pytest.raises(PersonaError, match=r"set serve.token"):
        bind("0.0.0.0", 0, "")
    bind("0.0.0.0", 0, "s3cret").close()


async def test_sigterm_lets_a_stream_finish_and_leaves(house: House) -> None:
    layer = house.publish(1)
    house.revise(1, rust=layer)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", PROGRAM, str(house.root), str(house.base),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    server = Running((await asyncio.wait_for(process.stdout.readline(), 120)).decode().strip(), "")
    async with server.openai as client:
        stream = await client.chat.completions.create(
            model="ada:rust", messages=ASKED, temperature=0, max_tokens=400, stream=True
        )
        text = ""
        async for chunk in stream:
            if not text and chunk.choices[0].delta.content:
                process.terminate()
            text += chunk.choices[0].delta.content or ""
        assert text == reference(house, layer, ASKED, 400)
        _, log = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, log.decode()
    assert b"Traceback" not in log
    async with server.http as http:
        with pytest.raises(httpx.ConnectError):
            await http.get("/healthz")


async def test_a_second_signal_does_not_wait_for_what_is_under_way(house: House) -> None:
    urls: asyncio.Queue[str] = asyncio.Queue()
    with bind("127.0.0.1", 0, "") as listener, slowly():
        serving = asyncio.create_task(serve(house.settings(grace=3600), listener, ready=urls.put_nowait))
        server = Running(await asyncio.wait_for(urls.get(), 120), "")
        body = {"model": "ada", "messages": ASKED, "max_tokens": 400}
        asking = [asyncio.create_task(_post(server, body)) for _ in range(20)]
        await until(lambda: in_flight(server, {"base": 20}))
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        # Far less than the grace, and than what is under way takes.
        await asyncio.wait_for(serving, 60)
    ended = await asyncio.gather(*asking, return_exceptions=True)
    assert not any(isinstance(end, httpx.Response) and end.status_code == 200 for end in ended)


async def test_threads_that_wait_do_not_spin(tmp_path: Path) -> None:
    """`persona serve` says so before anything imports torch, whose OpenMP reads it once and reports what it read."""
    (tmp_path / "file").touch()
    program = """
import asyncio, sys
import daemon.cli.main
from daemon.config.settings import Config
from daemon.errors import PersonaError
from daemon.service import serving
assert "torch" not in sys.modules
try:
    asyncio.run(serving.serve(Config(layers={"directory": sys.argv[1]}, serve={"port": int(sys.argv[2])})))
except PersonaError as error:
    # All is imported by then, and nothing is served.
    assert "cannot be read" in str(error), error
assert "torch" in sys.modules
"""
    spare = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(tmp_path / "file"), str(free_port()),
        env={**spare, "OMP_DISPLAY_ENV": "VERBOSE"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, said.decode()
    assert b"OMP_WAIT_POLICY = 'PASSIVE'" in said


async def _post(server: Running, body: dict[str, object]) -> httpx.Response:
    async with server.http as client:
        return await client.post(CHAT, json=body)
