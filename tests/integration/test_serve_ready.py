"""/readyz: a server that can answer what the newest genome files ask for is ready, and one that cannot says why."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from daemon.serve import engines
from daemon.serve.roster import Speaker
from tests.integration.serve_support import ASKED, House, Running, house_at, make_base, reference, serving, until


@pytest.fixture
def house(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> House:
    return house_at(tmp_path, tmp_path_factory.getbasetemp())


@pytest.fixture
def old(house: House, tmp_path: Path) -> str:
    """Another base model, in a folder that can be deleted, written as people write paths."""
    make_base(tmp_path / "old", seed=1)
    return str(tmp_path / "somewhere" / ".." / "old")


async def readiness(server: Running) -> tuple[int, Any]:
    async with server.http as client:
        answer = await client.get("/readyz")
    assert answer.json()["ready"] == (answer.status_code == 200)
    return answer.status_code, answer.json()["problems"]


async def ready(server: Running) -> bool:
    return await readiness(server) == (200, [])


async def test_a_base_that_nobody_speaks_with_any_more_may_be_deleted(house: House, old: str, tmp_path: Path) -> None:
    (tmp_path / "somewhere").mkdir()
    speaker = Speaker(old, "Be brief.")
    async with serving(house.settings(default=speaker, personas={"ada": speaker, "eve": speaker})) as server:
        before = await server.says("eve")
        layer = house.publish(1)
        house.revise(1, rust=layer)
        await server.served(1)
        shutil.rmtree(tmp_path / "old")
        assert await ready(server)
        assert await server.says("ada:rust") == reference(house, layer, ASKED, 12)
        assert await server.says("eve") == before, "it is in memory still"
        assert await server.says("old"), "its name did not change"
        house.revise(2, "eve")
        await server.served(2, "eve")
        assert await ready(server)


async def test_a_base_that_is_gone_at_start_holds_nobody_up_who_speaks_with_another(house: House) -> None:
    layer = house.publish(1)
    house.revise(1, rust=layer)
    gone = Speaker("/no/such/base")
    async with serving(house.settings(default=gone, personas={"ada": gone})) as server:
        assert await server.says("ada:rust") == reference(house, layer, ASKED, 12)
        assert await ready(server)
    async with serving(house.settings(default=gone, personas={"ada": gone, "eve": gone}), wait=False) as server:
        sentence = "The base model /no/such/base cannot be loaded: there is no such folder."

        async def told() -> bool:
            return await readiness(server) == (503, [sentence])

        await until(told)


async def test_a_base_that_comes_late_makes_the_server_ready_unasked(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "RETRY", 0.1)
    late = tmp_path / "late"
    late.mkdir()
    speaker = Speaker(str(late))
    with structlog.testing.capture_logs() as logs:
        async with serving(house.settings(default=speaker, personas={"ada": speaker}, beat=0.1), wait=False) as server:

            async def told() -> bool:
                return await readiness(server) == (
                    503,
                    [f"The base model {late} cannot be loaded: it has no config.json."],
                )

            await until(told)
            shutil.copytree(house.base, late, dirs_exist_ok=True)
            await until(lambda: ready(server))
    said = [log["error"] for log in logs if log["event"] == "base.failed"]
    assert len(said) == len(set(said)), "what does not change is said once"


async def test_who_is_answered_otherwise_than_asked_is_named(house: House) -> None:
    house.revise(1, rust=house.publish(1))
    async with serving(house.settings()) as server:
        assert await ready(server)
        broken = house.publish(2)
        (house.root / broken.path / "manifest.json").unlink()
        house.revise(2, rust=broken)

        async def told() -> bool:
            return "ada is not served as its genome file says" in str(await readiness(server))

        await until(told)
        assert (await readiness(server))[0] == 200, "it goes on as before"
        assert "v0002" not in str(await readiness(server)), "whoever has no token is told no more"
        house.revise(3)
        await until(lambda: ready(server))


async def test_without_any_base_model_there_is_a_sentence(house: House) -> None:
    nothing = Speaker("")
    async with serving(house.settings(default=nothing, personas={}), wait=False) as server:

        async def told() -> bool:
            return await readiness(server) == (503, ["No base model is configured; set defaults.base_model."])

        await until(told)


DAMAGE: dict[str, tuple[Any, str]] = {
    "no weights": (lambda base: (base / "model.safetensors").unlink(), "it has no weights (*.safetensors)"),
    "no tokenizer": (lambda base: (base / "tokenizer.json").unlink(), "it has no tokenizer"),
    "no JSON": (lambda base: (base / "config.json").write_text("{"), "config.json is no JSON"),
    "cut": (lambda base: (base / "model.safetensors").write_bytes(b"cut"), "model.safetensors is damaged: its"),
    "no template": (lambda base: (base / "chat_template.jinja").unlink(), "its tokenizer has no chat template"),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_why_a_base_cannot_be_loaded_is_said_in_words(house: House, tmp_path: Path, damage: str) -> None:
    broken = shutil.copytree(house.base, tmp_path / "broken")
    do, sentence = DAMAGE[damage]
    do(broken)
    speaker = Speaker(str(broken))
    async with serving(house.settings(default=speaker, personas={}), wait=False) as server:

        async def told() -> bool:
            return sentence in str(await readiness(server))

        await until(told)
