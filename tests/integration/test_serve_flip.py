"""Invariant 7 and its neighbours: a genome changes under a stream of requests, and only the answers show it."""

import asyncio
import itertools
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog.testing

from daemon.genome import genome_file
from daemon.genome.directories import Published
from tests.integration.serve_support import (
    ASKED,
    House,
    Running,
    house_at,
    in_flight,
    reference,
    serving,
    slowly,
    until,
)

CHAT = "/v1/chat/completions"


@pytest.fixture
def house(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> House:
    return house_at(tmp_path, tmp_path_factory.getbasetemp())


class Crowd:
    """Clients that ask without pause; every answer with the time of its question and the layer named in its header."""

    def __init__(self, server: Running, tokens: int) -> None:
        self.answers: list[tuple[float, str, str]] = []
        self._server = server
        self._body = {"model": "ada:rust", "messages": ASKED, "max_tokens": tokens, "temperature": 0}
        self._leaving = False

    async def ask(self) -> None:
        async with self._server.http as client:
            while not self._leaving:
                await self.ask_once(client)

    async def ask_once(self, client: httpx.AsyncClient) -> None:
        asked = time.monotonic()
        response = await client.post(CHAT, json=self._body)
        assert response.status_code == 200, response.text
        text = response.json()["choices"][0]["message"]["content"]
        self.answers.append((asked, response.headers["x-persona-layer"], text))

    def leave(self) -> None:
        self._leaving = True


async def test_a_flip_under_load_fails_none_mixes_none_and_leaves_nothing_stale(house: House) -> None:
    layers = {f"rust@{version}": house.publish(version) for version in (1, 2, 3)}
    expected = {label: reference(house, layer, ASKED, 24) for label, layer in layers.items()}
    assert len(set(expected.values())) == 3
    house.revise(1, rust=layers["rust@1"])
    served: list[tuple[float, str]] = []
    async with serving(house.settings()) as server, server.http as client:
        crowd = Crowd(server, 24)
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(crowd.ask())
            for revision, label in zip(range(2, 8), itertools.cycle(["rust@2", "rust@3", "rust@1"]), strict=False):
                seen = len(crowd.answers)
                await until(lambda seen=seen: several(crowd, seen))  # type: ignore[misc]
                house.revise(revision, rust=layers[label])
                await server.served(revision)
                served.append((time.monotonic(), label))
                # One that begins as close after the report as can be.
                await crowd.ask_once(client)
            seen = len(crowd.answers)
            await until(lambda: several(crowd, seen))
            crowd.leave()
    assert len(crowd.answers) >= 30
    for asked, label, text in crowd.answers:
        assert text == expected[label], "an answer is wholly of the layer that it names"
        current = [name for at, name in served if at < asked]
        following = [name for at, name in served if at >= asked]
        assert label in [*(current or ["rust@1"])[-1:], *following], "an answer asked for after the report is not old"


async def several(crowd: Crowd, seen: int) -> bool:
    return len(crowd.answers) >= seen + 5


async def test_requests_in_flight_finish_on_the_version_they_began_with(house: House) -> None:
    old, new = house.publish(1), house.publish(2)
    house.revise(1, rust=old)
    # No room for two: only the requests in flight keep the old layer in memory.
    async with serving(house.settings(memory=1)) as server:
        with slowly() as hurry:
            crowd = Crowd(server, 300)
            asking = [asyncio.create_task(crowd.ask()) for _ in range(6)]
            await until(lambda: in_flight(server, {"rust@1": 6}))
            crowd.leave()
            house.revise(2, rust=new)
            await server.served(2)
            assert (await server.genome())["in_flight"] == {"rust@1": 6}, "they are not done yet"
            assert await server.says("ada:rust", 8) == reference(house, new, ASKED, 8)
            hurry.set()
            await asyncio.gather(*asking)
        assert {text for _, _, text in crowd.answers} == {reference(house, old, ASKED, 300)}
        await until(lambda: in_flight(server, {}))


def _flip_a_byte(house: House, layer: Published) -> None:
    weights = house.root / layer.path / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def _remove(house: House, layer: Published) -> None:
    shutil.rmtree(house.root / layer.path)


@pytest.mark.parametrize(
    ("damage", "sentence"), [(_flip_a_byte, "was altered"), (_remove, "No such file")], ids=["altered", "missing"]
)
async def test_a_broken_layer_is_refused_and_the_old_one_goes_on(
    house: House, damage: Callable[[House, Published], None], sentence: str
) -> None:
    old, new = house.publish(1), house.publish(2)
    keep = house.root / "copy"
    shutil.copytree(house.root / new.path, keep)
    house.revise(1, rust=old)
    async with serving(house.settings()) as server:
        before = await server.says("ada:rust")
        damage(house, new)
        house.revise(2, rust=new)
        await until(lambda: refused(server, sentence))
        report = await server.genome()
        assert (report["revision"], report["traits"]) == (1, {"rust": 1})
        assert await server.says("ada:rust") == before
        async with server.http as client:
            answer = await client.post(CHAT, json={"model": "ada:rust@2", "messages": ASKED})
            assert answer.status_code in (404, 503)
        shutil.rmtree(house.root / new.path, ignore_errors=True)
        keep.rename(house.root / new.path)
        # Mended in place, and the file is as it was: the slow beat finds it.
        await server.served(2)
        assert (await server.genome())["error"] is None
        assert await server.says("ada:rust") == reference(house, new, ASKED, 12)


async def refused(server: Running, sentence: str) -> bool:
    return sentence in ((await server.genome()).get("error") or "")


async def test_a_layer_of_another_base_is_not_served_and_freezes_nothing(house: House) -> None:
    old, go = house.publish(1), house.publish(1, "go")
    stale = house.publish(2, base_fingerprint="0" * 64)
    house.revise(1, rust=old)
    async with serving(house.settings()) as server:
        plain = await server.says("ada")
        with structlog.testing.capture_logs() as logs:
            for revision in (2, 3):
                house.revise(revision, rust=stale, go=go)
                await server.served(revision)
        report = await server.genome()
        assert report["traits"] == {"go": 1}
        assert report["error"].startswith("ada:rust@2 was trained on another base than ")
        assert report["error"].endswith("until its next layer.")
        assert [log["log_level"] for log in logs if log["event"] == "genome.stale"] == ["warning"]
        assert await server.says("ada:go") == reference(house, go, ASKED, 12)
        async with server.http as client:
            body = {"model": "ada:rust", "messages": ASKED, "max_tokens": 12, "temperature": 0}
            answer = await client.post(CHAT, json=body)
            assert (answer.headers["x-persona-layer"], answer.headers["x-persona-revision"]) == ("base", "3")
            assert answer.json()["choices"][0]["message"]["content"] == plain
            named = await client.post(CHAT, json={**body, "model": "ada:rust@2"})
            assert (named.status_code, "another base" in named.text) == (503, True)
        house.revise(4, rust=old, go=go)
        await server.served(4)
        assert (await server.genome())["error"] is None
        assert await server.says("ada:rust") == reference(house, old, ASKED, 12)


async def test_a_malformed_file_is_refused_and_the_others_are_followed(house: House) -> None:
    house.revise(1, rust=house.publish(1))
    async with serving(house.settings()) as server:
        before = await server.says("ada:rust")
        path = genome_file.genome_path(house.root, "ada")
        path.write_text('{"persona": "ada"')
        await until(lambda: refused(server, "genome file ada.json is not usable"))
        house.revise(5, persona="eve", rust=house.publish(1, persona="eve"))
        await server.served(5, "eve")
        assert await server.says("ada:rust") == before
        house.revise(2)
        await server.served(2)
        assert await server.says("ada:rust") == await server.says("ada")


async def test_a_rollback_is_a_rewritten_file(house: House) -> None:
    one, two = house.publish(1), house.publish(2)
    house.revise(1, rust=one)
    async with serving(house.settings()) as server:
        before = await server.says("ada:rust")
        house.revise(2, rust=two)
        await server.served(2)
        assert await server.says("ada:rust") != before
        house.revise(3, rust=one)
        await server.served(3)
        assert await server.says("ada:rust") == before


async def test_a_server_that_starts_first_and_one_that_starts_last_serve_the_same(house: House) -> None:
    async with serving(house.settings(personas={})) as early:
        assert await early.genome() == {}
        house.revise(7, rust=house.publish(1))
        await early.served(7)
        async with serving(house.settings(personas={})) as late:
            # Ready means: whoever asks now is answered by the revision that lies there.
            assert (await late.genome())["revision"] == 7
            assert await late.says("ada:rust") == await early.says("ada:rust")


async def test_no_request_is_answered_before_the_first_look(house: House) -> None:
    layer = house.publish(1)
    house.revise(1, rust=layer)
    async with serving(house.settings(), wait=False) as server:
        assert await server.says("ada:rust") == reference(house, layer, ASKED, 12)


async def test_a_trait_whose_layer_was_never_servable_is_not_answered_by_the_base(house: House) -> None:
    layer = house.publish(1)
    _flip_a_byte(house, layer)
    house.revise(1, rust=layer)
    async with serving(house.settings()) as server, server.http as client:
        answer = await client.post(CHAT, json={"model": "ada:rust", "messages": ASKED})
        assert (answer.status_code, "was altered" in answer.json()["error"]["message"]) == (503, True)
        assert (await server.genome())["revision"] == 0
        assert await server.says("ada")


async def test_a_persona_whose_file_goes_speaks_as_its_base(house: House) -> None:
    house.revise(3, rust=house.publish(1))
    async with serving(house.settings()) as server:
        genome_file.genome_path(house.root, "ada").unlink()
        await server.served(0)
        assert await server.says("ada:rust") == await server.says("ada")


async def test_a_persona_of_nothing_but_its_file_goes_with_it(house: House) -> None:
    house.revise(3, persona="eve", rust=house.publish(1, persona="eve"))
    async with serving(house.settings()) as server, server.http as client:
        assert await server.says("eve:rust")
        genome_file.genome_path(house.root, "eve").unlink()
        await until(lambda: unheard_of(server, "eve"))
        await asyncio.sleep(0.1)
        assert await server.genome("eve") == {}
        assert "eve" not in (await client.get("/v1/models")).text
        assert (await client.post(CHAT, json={"model": "eve:rust", "messages": ASKED})).status_code == 404


async def unheard_of(server: Running, persona: str) -> bool:
    return bool((await server.genome(persona)).get("revision", 0) == 0)


async def test_a_directory_that_goes_between_two_looks_does_not_end_the_server(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = house.publish(1), house.publish(2)
    house.revise(1, rust=one)
    lost: list[Path] = []
    genomes, real = house.root / "genomes", Path.stat

    def stat(path: Path, **options: Any) -> os.stat_result:
        if path == genomes and not lost:
            lost.append(path)
            raise FileNotFoundError(path)
        return real(path, **options)

    async with serving(house.settings()) as server:
        # It is there when it is looked for, and gone when it is looked at.
        monkeypatch.setattr(Path, "is_dir", lambda path: os.path.isdir(path))  # noqa: PTH112
        monkeypatch.setattr(Path, "stat", stat)
        await until(lambda: asyncio.sleep(0, bool(lost)))
        await asyncio.sleep(0.1)
        assert await server.says("ada:rust") == reference(house, one, ASKED, 12)
        house.revise(2, rust=two)
        await server.served(2)


async def test_the_genome_directory_may_be_replaced(house: House) -> None:
    one, two = house.publish(1), house.publish(2)
    house.revise(1, rust=one)
    async with serving(house.settings()) as server:
        (house.root / "genomes").rename(house.root / "moved")
        house.revise(2, rust=two)
        await server.served(2)
        house.revise(3, rust=one)
        await server.served(3)


async def test_many_traits_share_little_memory(house: House) -> None:
    traits = [f"t{number}" for number in range(4)]
    layers = {trait: house.publish(1, trait) for trait in traits}
    house.revise(1, "ada", **layers)
    expected = {trait: reference(house, layer, ASKED, 12) for trait, layer in layers.items()}
    size = (house.root / layers["t0"].path / "adapter_model.safetensors").stat().st_size
    async with serving(house.settings(memory=2 * size)) as server:
        for _ in range(2):
            said = await asyncio.gather(*(server.says(f"ada:{trait}") for trait in traits))
            assert dict(zip(traits, said, strict=True)) == expected

        async def within_budget() -> bool:
            return await metric(server, "persona_layer_bytes") <= 2 * size

        # The last answers are let go of a moment after they are heard; nobody has to ask again for that.
        await until(within_budget)
        assert await metric(server, "persona_layer_evictions_total") >= 2


async def metric(server: Running, name: str) -> float:
    async with server.http as client:
        metrics = (await client.get("/metrics")).text
    return float(next(line for line in metrics.splitlines() if line.startswith(f"{name}{{")).split()[-1])
