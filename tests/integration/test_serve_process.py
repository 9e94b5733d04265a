"""The server as a process: signals, and a stop that finishes what it began."""

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from daemon.errors import PersonaError
from daemon.serve.listener import bind, listen
from daemon.serve.server import serve
from scripts.processes import PATIENCE_S, PERSONA, Process, free_port
from tests.integration.cli_support import Desk
from tests.integration.serve_support import ASKED, House, Running, house_at, in_flight, reference, slowly, until
from tests.processes import started

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
def slow_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever imports torch is at it for as long as the test takes."""
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "torch.py").write_text(SLOW_TORCH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "slow"), prepend=os.pathsep)


@pytest.fixture
def loading(desk: Desk, slow_torch: None) -> Iterator[Process]:
    """`persona serve` in the middle of importing torch."""
    process = Process(("serve",), desk.folder, desk.folder / "serve.log")
    try:
        process.wait_for("server.starting")
        yield process
    finally:
        process.end(grace=0)


@pytest.fixture
def manager(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Where systemd would hear what it is told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(PATIENCE_S)
        manager.bind(str(desk.folder / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(desk.folder / "notify"))
        yield manager


def test_it_says_that_it_starts_and_refuses_connections_until_it_can_answer(desk: Desk, loading: Process) -> None:
    (starting,) = loading.events("server.starting")
    assert starting["url"] == f"http://127.0.0.1:{desk.port}"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", desk.port), 10)
    assert loading.events("server.ready") == []


STOPS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", STOPS)
def test_a_start_can_be_ended_at_once(loading: Process, number: signal.Signals) -> None:
    loading.process.send_signal(number)
    assert loading.process.wait(PATIENCE_S) == -number


@pytest.mark.parametrize("number", STOPS)
@pytest.mark.usefixtures("slow_torch")
def test_a_start_can_be_ended_before_a_word_of_it_is_in_the_log(
    desk: Desk, manager: socket.socket, number: signal.Signals
) -> None:
    unread, full = os.pipe()
    os.set_blocking(full, False)
    with os.fdopen(unread, "rb"), os.fdopen(full, "wb", buffering=0) as pipe:
        while pipe.write(b"." * 4096):
            pass
        os.set_blocking(full, True)
        with started(PERSONA, "serve", cwd=desk.folder, stderr=pipe) as process:
            # It hangs at its first log line: were the signal ignored until torch is there, it would do so for ever.
            assert manager.recv(1000).startswith(b"STATUS=starting")
            process.send_signal(number)
            assert process.wait(PATIENCE_S) == -number


def test_systemd_is_told_when_requests_are_taken_and_not_before(
    desk: Desk, house: House, manager: socket.socket
) -> None:
    desk.configure(defaults__base_model=str(house.base))
    process = Process(("serve",), desk.folder, desk.folder / "serve.log")
    try:
        url = f"http://127.0.0.1:{desk.port}"
        said = [manager.recv(1000).decode() for _ in range(3)]
        assert said == [f"STATUS=starting; it will serve at {url}", f"STATUS=serving at {url}", "READY=1"]
        with socket.create_connection(("127.0.0.1", desk.port), PATIENCE_S):
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
def test_an_address_that_cannot_be_had_is_said_before_torch_is_loaded(host: str, sentence: str) -> None:
    with bind("127.0.0.1", 0, "") as taken:
        listen(taken)
        port = taken.getsockname()[1]
        command = [sys.executable, "-c", PROMPT, host, str(port)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=PATIENCE_S)
    first, torch = done.stdout.splitlines()
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
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(house.root), str(house.base)]
    with started(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        server = Running((await asyncio.to_thread(process.stdout.readline)).strip(), "")
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
        _, log = await asyncio.to_thread(process.communicate, timeout=PATIENCE_S)
    assert process.returncode == 0, log
    assert "Traceback" not in log
    async with server.http as http:
        with pytest.raises(httpx.ConnectError):
            await http.get("/healthz")


async def test_a_second_signal_does_not_wait_for_what_is_under_way(house: House) -> None:
    urls: asyncio.Queue[str] = asyncio.Queue()
    with bind("127.0.0.1", 0, "") as listener, slowly(0.2):
        serving = asyncio.create_task(serve(house.settings(grace=3600), listener, ready=urls.put_nowait))
        server = Running(await asyncio.wait_for(urls.get(), PATIENCE_S), "")
        body = {"model": "ada", "messages": ASKED, "max_tokens": 400}
        asking = [asyncio.create_task(_post(server, body)) for _ in range(20)]
        await until(lambda: in_flight(server, {"base": 20}))
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        # Far less than the grace, and than what is under way takes.
        await asyncio.wait_for(serving, PATIENCE_S)
    ended = await asyncio.gather(*asking, return_exceptions=True)
    assert not any(isinstance(end, httpx.Response) and end.status_code == 200 for end in ended)


def test_threads_that_wait_do_not_spin(tmp_path: Path) -> None:
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
    command = [sys.executable, "-c", program, str(tmp_path / "file"), str(free_port())]
    environment = {**spare, "OMP_DISPLAY_ENV": "VERBOSE"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stdout + done.stderr


async def _post(server: Running, body: dict[str, object]) -> httpx.Response:
    async with server.http as client:
        return await client.post(CHAT, json=body)
