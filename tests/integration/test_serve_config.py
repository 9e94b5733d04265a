"""A saved config.toml takes effect in a server that runs, and one that cannot be read changes nothing."""

from pathlib import Path

import httpx
import pytest

from scripts.processes import PATIENCE_S, free_port, running
from tests.integration.serve_support import House, house_at, until


@pytest.fixture
def house(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> House:
    return house_at(tmp_path, tmp_path_factory.getbasetemp())


async def test_a_persona_comes_and_goes_with_the_config(house: House, tmp_path: Path) -> None:
    config, port = tmp_path / "config.toml", free_port()

    def save(more: str) -> None:
        text = f'[defaults]\nbase_model = "{house.base}"\n[serve]\nport = {port}\n{more}'
        # As editors do: while a file is being written it may be read when it is empty, and an empty config is valid.
        aside = config.with_suffix(".new")
        aside.write_text(text, encoding="utf-8")
        aside.rename(config)

    save("[personas.ada]\n")
    with running(tmp_path, "serve") as (server,):
        server.wait_for("server.ready")
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE_S
        ) as client:

            async def known(persona: str) -> bool:
                return (await client.get(f"/v1/models/{persona}")).status_code == 200

            assert await known("ada") and not await known("eve")
            save("[personas.ada]\n[personas.eve]\nsystem_prompt = 'Be brief.'\n")
            await until(lambda: known("eve"))
            assert await known("ada")
            save("[personas.eve]\nsystem_prompt = Be brief.\n")
            server.wait_for("config.refused")
            assert await known("ada") and await known("eve"), "the old one stays"
            save("[personas.eve]\n[service]\nbeat = '5s'\n")
            await until(lambda: known_no_more(client, "ada"))
            assert await known("eve")


async def known_no_more(client: httpx.AsyncClient, persona: str) -> bool:
    return (await client.get(f"/v1/models/{persona}")).status_code == 404
