"""The server as a process: signals, and a stop that finishes what it began."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import httpx
import pytest

from daemon.serve.server import serve
from tests.integration.serve_support import ASKED, House, Running, house_at, reference, until

CHAT = "/v1/chat/completions"
PROGRAM = """
import asyncio, sys
from pathlib import Path
import structlog
from daemon.serve.roster import Speaker
from daemon.serve.server import ServeSettings, serve
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
layers, base = sys.argv[1:]
settings = ServeSettings(Path(layers), Speaker(base, "Be brief."), port=0, threads=1)
asyncio.run(serve(settings, ready=lambda url: print(url, flush=True)))
"""


@pytest.fixture
def house(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> House:
    return house_at(tmp_path, tmp_path_factory.getbasetemp())


async def test_sigterm_lets_a_stream_finish_and_leaves(house: House) -> None:
    layer = house.publish(1)
    house.revise(1, rust=layer)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", PROGRAM, str(house.root), str(house.base),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    server = Running((await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip(), "")
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
        _, log = await asyncio.wait_for(process.communicate(), 20)
    assert process.returncode == 0, log.decode()
    assert b"Traceback" not in log
    async with server.http as http:
        with pytest.raises(httpx.ConnectError):
            await http.get("/healthz")


async def test_a_second_signal_does_not_wait_for_what_is_under_way(house: House) -> None:
    urls: asyncio.Queue[str] = asyncio.Queue()
    serving = asyncio.create_task(serve(house.settings(grace=60), ready=urls.put_nowait))
    server = Running(await urls.get(), "")
    body = {"model": "ada", "messages": ASKED, "max_tokens": 400}
    asking = [asyncio.create_task(_post(server, body)) for _ in range(20)]

    async def all_in() -> bool:
        return bool((await server.genome())["in_flight"] == {"base": 20})

    await until(all_in)
    began = time.monotonic()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(serving, 10)
    assert time.monotonic() - began < 5
    ended = await asyncio.gather(*asking, return_exceptions=True)
    assert not any(isinstance(end, httpx.Response) and end.status_code == 200 for end in ended)


async def test_threads_that_wait_do_not_spin() -> None:
    """`persona serve` says so before anything imports torch, whose OpenMP reads it once and reports what it read."""
    program = """
import asyncio, sys
from unittest.mock import patch
import daemon.cli.main
from daemon.config.settings import Config
from daemon.service import serving
assert "torch" not in sys.modules
with patch("daemon.service.serving.Notifier", side_effect=SystemExit(0)):
    asyncio.run(serving.serve(Config()))
"""
    spare = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env={**spare, "OMP_DISPLAY_ENV": "VERBOSE"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, said.decode()
    assert b"OMP_WAIT_POLICY = 'PASSIVE'" in said


async def _post(server: Running, body: dict[str, object]) -> httpx.Response:
    async with server.http as client:
        return await client.post(CHAT, json=body)
