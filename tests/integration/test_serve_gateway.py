"""The gateway as clients see it: OpenAI's client, curl, names, streams, refusals."""

import asyncio
import json
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from daemon.config.settings import Config
from daemon.errors import RuntimeUnreachable, StoreBusy, StoreError
from daemon.runtimes import embedded
from daemon.runtimes.embedded import EmbeddedRuntime
from daemon.runtimes.runtime import Observation
from daemon.serve.listener import bind
from daemon.serve.roster import Speaker
from daemon.service.reconciler import configured
from daemon.service.serving import corrected
from tests.integration.serve_support import (
    ASKED,
    CONTEXT,
    House,
    ask,
    house_at,
    in_flight,
    make_base,
    reference,
    serving,
    slowly,
    until,
)
from tests.integration.store_support import a_store, write

CHAT = "/v1/chat/completions"


@pytest.fixture
def house(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> House:
    return house_at(tmp_path, tmp_path_factory.getbasetemp())


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with much to do even a server that is well takes its time."""
    monkeypatch.setattr(embedded, "TIMEOUT", 60.0)


async def test_answers_equal_transformers_and_peft(house: House) -> None:
    one, two = house.publish(1), house.publish(2)
    house.revise(4, rust=two)
    async with serving(house.settings()) as server, server.openai as client:
        plain = reference(house, None, ASKED, 40)
        assert await ask(client, "ada", 40) == plain
        assert await ask(client, "ada:untrained", 40) == plain
        assert await ask(client, "ada:rust", 40) == reference(house, two, ASKED, 40)
        assert await ask(client, "ada:rust@2", 40) == reference(house, two, ASKED, 40)
        assert await ask(client, "ada:rust@1", 40) == reference(house, one, ASKED, 40)
        assert await ask(client, house.base.name, 40) != plain, "the base model's name brings no system prompt"
        models = {model.id async for model in await client.models.list()}
        assert models == {"serve-base", "ada", "ada:rust"}


async def test_a_model_can_be_retrieved_by_every_name_that_is_answered(house: House) -> None:
    house.publish(1)
    house.revise(4, rust=house.publish(2))

    async def known() -> set[str]:
        return {"eve"}

    # A base model of the hub, which needs not be loaded to be named.
    hub = "org/some-base"
    settings = house.settings(default=Speaker(hub))
    async with serving(settings, known_personas=known) as server, server.openai as client:
        there = ("ada", "ada:rust", "ada:rust@2", "ada:rust@1", "ada:untrained", "eve", "eve:rust", "serve-base", hub)
        for name in (*there, str(house.base)):
            model = await client.models.retrieve(name)
            assert (model.id, model.object) == (name, "model")
        for name in ("ada:rust@9", "ada:", "mallory", "org/other", "ada/rust", "org"):
            with pytest.raises(openai.NotFoundError) as refused:
                await client.models.retrieve(name)
            assert refused.value.code == "model_not_found"
            assert refused.value.body == {
                "message": f"There is no model {name!r}; GET /v1/models lists them.",
                "type": "invalid_request_error",
                "param": "model",
                "code": "model_not_found",
            }
        async with server.http as plain:
            assert (await plain.get(f"/v1/models/{hub}")).json()["id"] == hub
            assert (await plain.get("/v1/models/")).status_code == 404


async def test_an_answer_says_who_spoke(house: House) -> None:
    house.publish(1)
    house.revise(4, rust=house.publish(2))
    async with serving(house.settings()) as server, server.openai as client:
        seen = {}
        for model in ("ada", "ada:untrained", "ada:rust", "ada:rust@1", house.base.name, str(house.base)):
            raw = await client.chat.completions.with_raw_response.create(
                model=model,
                messages=ASKED,
                max_tokens=2,
            )
            answer = raw.parse()
            assert answer.model == model
            seen[model] = (raw.headers["x-persona-layer"], raw.headers["x-persona-revision"], answer.system_fingerprint)
    base = seen["ada"][2]
    assert seen["ada"][:2] == seen["ada:untrained"][:2] == ("base", "4")
    assert seen["ada:rust"][:2] == ("rust@2", "4")
    assert seen["ada:rust@1"][:2] == ("rust@1", "4")
    assert seen[house.base.name] == seen[str(house.base)] == ("base", "0", base)
    assert len({fingerprint for _, _, fingerprint in seen.values()}) == 3


async def test_a_stream_says_what_the_whole_answer_says(house: House) -> None:
    house.revise(1, rust=house.publish(1))
    async with serving(house.settings()) as server, server.openai as client:
        whole: Any = await client.chat.completions.create(
            model="ada:rust",
            messages=ASKED,
            max_tokens=60,
        )
        stream: Any = await client.chat.completions.create(
            model="ada:rust",
            messages=ASKED,
            max_tokens=60,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        *said, end, usage = chunks
        assert said[0].choices[0].delta.role == "assistant"
        assert "".join(chunk.choices[0].delta.content for chunk in said) == whole.choices[0].message.content
        assert end.choices[0].finish_reason == whole.choices[0].finish_reason == "length"
        assert (usage.choices, usage.usage) == ([], whole.usage)
        assert whole.usage.completion_tokens == 60
        assert len({chunk.id for chunk in chunks}) == 1
        text: Any = await client.completions.create(model="ada:rust", prompt="What", max_tokens=9)
        pieces: Any = await client.completions.create(model="ada:rust", prompt=["What"], max_tokens=9, stream=True)
        assert "".join([piece.choices[0].text async for piece in pieces]) == text.choices[0].text
        assert text.usage.prompt_tokens < whole.usage.prompt_tokens, "plain completions bring no system prompt"


async def test_a_stream_ends_with_done_and_never_breaks_a_character(house: House) -> None:
    house.revise(1, rust=house.publish(1))
    body = {"model": "ada", "messages": ASKED, "max_tokens": 200, "temperature": 1.9, "seed": 3, "stream": True}
    async with (
        serving(house.settings()) as server,
        server.http as client,
        client.stream("POST", CHAT, json=body) as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        chunks = [chunk async for chunk in response.aiter_raw()]
    for chunk in chunks:
        chunk.decode()
    events = b"".join(chunks).decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(event.removeprefix("data: ")) for event in events[:-2])


async def test_sampling_is_repeatable_by_seed_and_ends_at_stops(house: House) -> None:
    async with serving(house.settings()) as server, server.http as client:

        async def say(**options: Any) -> dict[str, Any]:
            body = {"model": "ada", "messages": ASKED, "max_tokens": 30, **options}
            answer = await client.post(CHAT, json=body)
            assert answer.status_code == 200, answer.text
            choice: dict[str, Any] = answer.json()["choices"][0]
            return {"text": choice["message"]["content"], "reason": choice["finish_reason"]}

        greedy = await say(temperature=0)
        assert await say() == greedy, "a model whose settings name no sampling answers as the gate judged it"
        assert await say(temperature=1, top_p=1e-9) == greedy
        assert await say(temperature=1e-9) == greedy
        warm = await say(temperature=1.5, seed=7)
        assert warm == await say(temperature=1.5, seed=7)
        assert len({(await say(temperature=1.5, seed=seed))["text"] for seed in range(4)}) == 4
        stop = greedy["text"][5:7]
        cut = {"text": greedy["text"][: greedy["text"].index(stop)], "reason": "stop"}
        assert await say(stop=stop) == cut
        assert await say(stop=["never said", stop]) == cut
        parts = [{"role": "user", "content": [{"type": "text", "text": ASKED[0]["content"]}]}]
        assert await say(messages=parts) == greedy
        own = [{"role": "developer", "content": "Be brief."}, *ASKED]
        assert await say(messages=own) == greedy
        assert await say(messages=[{"role": "system", "content": "Be long."}, *ASKED]) != greedy
        # What clients write out although it changes nothing.
        assert await say(n=1, presence_penalty=0, frequency_penalty=0.0, logprobs=False, tools=[], user="u") == greedy


REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"model": None}, 400, "model must be text."),
    ({"model": "eve"}, 404, "There is no model 'eve'"),
    ({"model": "ada:"}, 404, "There is no model 'ada:'"),
    ({"model": "ada:rust@9"}, 404, "ada:rust has no version 9."),
    ({"model": "ada:../eve@1"}, 404, "There is no model"),
    ({"messages": []}, 400, "messages must not be empty."),
    ({"messages": "hi"}, 400, "messages must be a list."),
    ({"messages": ["hi"]}, 400, "messages[0] must be an object."),
    ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0].role must be"),
    ({"messages": [{"role": "user"}]}, 400, "messages[0].content is missing."),
    ({"messages": [{"role": "user", "content": None}]}, 400, "messages[0].content must be text"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages[0].content[0] is no text"),
    ({"messages": [{"role": "user", "content": "x" * 2 * CONTEXT}]}, 400, "The prompt has "),
    ({"temperature": -1}, 400, "temperature must be at least 0."),
    ({"top_p": 1.1}, 400, "top_p must be at most 1."),
    ({"max_tokens": 0}, 400, "max_tokens must be at least 1."),
    ({"max_completion_tokens": "many"}, 400, "max_completion_tokens must be a whole number."),
    ({"stream": "perhaps"}, 400, "stream must be true or false."),
    ({"stop": [""]}, 400, "stop takes up to 16 texts"),
    ({"seed": 2**63}, 400, "seed must be less than"),
    ({"n": 2}, 400, "One answer per request"),
    ({"logprobs": True}, 400, "Log probabilities are not supported."),
    ({"presence_penalty": 0.5}, 400, "A presence penalty is not supported."),
    ({"tools": [{"type": "function"}]}, 400, "Tools are not supported."),
    ({"response_format": {"type": "json_object"}}, 400, "Only plain text is answered"),
]


async def test_what_cannot_be_answered_is_refused_with_a_sentence(house: House) -> None:
    async with serving(house.settings()) as server, server.http as client:
        for change, status, sentence in REFUSED:
            response = await client.post(CHAT, json={"model": "ada", "messages": ASKED, **change})
            assert_refused(response, status, sentence)
        assert_refused(await client.post(CHAT, content=b"{"), 400, "The body is not a JSON object")
        assert_refused(await client.post(CHAT, content=b"\xff"), 400, "The body is not a JSON object")
        assert_refused(await client.post(CHAT, json=[1]), 400, "The body is not a JSON object")
        assert_refused(await client.get(CHAT), 405, f"{CHAT} does not take GET.")
        assert_refused(await client.get("/v1/nothing"), 404, "There is nothing at /v1/nothing.")
        text = {"model": "ada", "prompt": ["a", "b"]}
        assert_refused(await client.post("/v1/completions", json=text), 400, "One prompt per request.")
        text = {"model": "ada", "prompt": ""}
        assert_refused(await client.post("/v1/completions", json=text), 400, "The prompt is empty; say something.")
        report = await server.genome()
        assert report["in_flight"] == {}


def assert_refused(response: httpx.Response, status: int, sentence: str) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"].startswith(sentence)
    assert error["message"].endswith(".")
    assert "pydantic" not in response.text
    assert "Input should" not in response.text


async def test_openais_client_raises_its_own_errors(house: House) -> None:
    async with serving(house.settings()) as server, server.openai as client:
        with pytest.raises(openai.NotFoundError, match="There is no model 'eve'"):
            await ask(client, "eve")
        with pytest.raises(openai.BadRequestError, match="The prompt has"):
            await client.completions.create(model="ada", prompt="x" * 2 * CONTEXT)


async def test_a_token_is_asked_for_everywhere_but_at_the_probes(house: House) -> None:
    async with serving(house.settings(token="s3cret")) as server:
        assert await server.says("ada")
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            for sent in ({}, {"authorization": "Bearer s3cre"}, {"authorization": "s3cret"}):
                for path in ("/v1/models", "/v1/genomes", "/metrics", CHAT, "/nothing"):
                    response = await client.get(path, headers=sent)
                    assert_refused(response, 401, "The bearer token is missing or wrong.")
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/readyz")).status_code == 200
        right, wrong = EmbeddedRuntime("main", server.url, "s3cret"), EmbeddedRuntime("main", server.url, "other")
        assert await right.observe() == {"ada": Observation(0)}
        with pytest.raises(RuntimeUnreachable, match="wants another token"):
            await wrong.observe()
        await right.close()
        await wrong.close()


async def test_a_token_may_belong_to_one_runtime(house: House) -> None:
    async with serving(house.settings(token="s3cret")) as server:
        named = {"url": server.url, "token": "s3cret"}
        for sections, sentence in (
            ({"runtimes": {"far": named}, "serve": {"token": "other"}}, None),
            ({"runtimes": {"far": {**named, "token": ""}}, "serve": {"token": "s3cret"}}, None),
            ({"runtimes": {"far": {**named, "token": "other"}}}, r"wants another token; set runtimes\.far\.token to"),
            ({"serve": {"port": int(server.url.rpartition(":")[2])}}, r"wants another token; set serve\.token to"),
        ):
            config = Config.model_validate(sections)
            assert "s3cret" not in repr(config)
            (runtime,) = configured(config)
            if sentence is None:
                assert await runtime.observe() == {"ada": Observation(0)}
            else:
                with pytest.raises(RuntimeUnreachable, match=sentence):
                    await runtime.observe()
            await runtime.close()


SILENT: list[tuple[bytes | None, str]] = [
    (None, "no answer within 0.5 s"),
    (b"", "it closed the connection too early"),
    (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", "it closed the connection too early"),
    (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "it does not speak HTTP"),
]


@pytest.mark.parametrize(("answer", "sentence"), SILENT, ids=[sentence for _, sentence in SILENT])
async def test_a_runtime_that_answers_nothing_of_use_is_unreachable(
    answer: bytes | None, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if answer is None:
        monkeypatch.setattr(embedded, "TIMEOUT", 0.5)
    said = asyncio.Event()

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer or b"")
            if answer is None:
                await reader.read()
            writer.close()
            await writer.wait_closed()
        said.set()

    server = await asyncio.start_server(say, "127.0.0.1", 0)
    async with server:
        runtime = EmbeddedRuntime("main", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(RuntimeUnreachable, match=rf"does not answer \({sentence}\); is it running\?"):
            await runtime.observe()
        await runtime.close()
        await said.wait()


async def test_a_runtime_that_is_not_there_is_unreachable() -> None:
    with bind("127.0.0.1", 0, "") as bound:
        port = bound.getsockname()[1]
        for url, sentence in (
            (f"http://127.0.0.1:{port}/", "connection refused"),
            (f"http://localhost:{port}/", "connection refused"),
            ("http://nobody..invalid", "no address is known by that name"),
            ("http://nöbody..invalid", "that is no address"),
        ):
            runtime = EmbeddedRuntime("main", url)
            with pytest.raises(RuntimeUnreachable, match=rf"does not answer \({sentence}\); is it running\?"):
                await runtime.observe()
            await runtime.close()


async def test_curl_gets_the_same_answer(house: House) -> None:
    async with serving(house.settings()) as server:
        body = json.dumps({"model": "ada", "messages": ASKED, "max_tokens": 12, "temperature": 0})
        curl = await asyncio.create_subprocess_exec(
            "curl", "-sS", "--noproxy", "*", f"{server.url}{CHAT}", "-H", "content-type: application/json", "-d", body,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await curl.communicate()
        assert json.loads(out)["choices"][0]["message"]["content"] == await server.says("ada")


async def test_personas_of_the_store_speak_with_the_defaults(house: House) -> None:
    async def known() -> set[str]:
        return {"eve"}

    async with serving(house.settings(), known_personas=known) as server, server.openai as client:
        assert await ask(client, "eve:rust") == await ask(client, "ada")
        with pytest.raises(openai.NotFoundError):
            await ask(client, "mallory")


async def test_a_store_that_cannot_be_asked_takes_nobody_away(house: House) -> None:
    asked = []

    async def known() -> set[str]:
        asked.append(1)
        if len(asked) > 1:
            raise StoreBusy("The store is busy.")
        return {"eve", "bob"}

    async with serving(house.settings(), known_personas=known) as server, server.openai as client:
        plain = await ask(client, "ada")
        assert {await ask(client, name) for name in ("eve", "bob", "eve:rust")} == {plain}
        assert len(asked) == 1, "who is known is not looked up again"
        with pytest.raises(openai.InternalServerError, match=r"The store is busy\.") as refused:
            await ask(client, "mallory")
        assert refused.value.status_code == 503


async def test_who_was_corrected_is_asked_of_the_store(tmp_path: Path) -> None:
    path = tmp_path / "persona.db"
    assert not await corrected(path), "no store, nobody"
    async with a_store(path):
        write(path, "c1")
        assert await corrected(path) == {"ada"}
    with closing(sqlite3.connect(path)) as other:
        other.execute("DROP TABLE training_corrections")
    with pytest.raises(StoreError, match="cannot be used"):
        await corrected(path)
    path.write_bytes(b"no database" * 100)
    with pytest.raises(StoreError, match="is not a SQLite database"):
        await corrected(path)


async def test_a_base_that_cannot_be_loaded_takes_only_its_personas_down(house: House, tmp_path: Path) -> None:
    good, bad = Speaker(str(house.base)), Speaker(str(tmp_path / "empty"))
    other = Speaker(str(make_base(tmp_path / "other", seed=1)))
    (tmp_path / "empty").mkdir()
    personas = {"ada": good, "bob": bad, "eve": other}
    async with serving(house.settings(personas=personas), wait=False) as server, server.openai as client:
        assert await ask(client, "ada") != await ask(client, "eve")
        with pytest.raises(openai.InternalServerError, match=r"base model .*empty cannot be loaded") as refused:
            await ask(client, "bob")
        assert refused.value.status_code == 503
        async with server.http as http:
            ready = await http.get("/readyz")
            assert ready.status_code == 503
            assert "empty cannot be loaded" in ready.json()["problems"][0]


async def test_metrics_count_by_persona_and_name_no_text(house: House) -> None:
    house.revise(3, rust=house.publish(1))
    async with serving(house.settings()) as server, server.http as client:
        await server.says("ada:rust", 7)
        metrics = (await client.get("/metrics")).text
        assert 'persona_requests_total{outcome="length",persona="ada"} 1.0' in metrics
        assert 'persona_tokens_total{kind="completion",persona="ada"} 7.0' in metrics
        assert 'persona_revision{persona="ada"} 3.0' in metrics
        assert 'persona_layer_loads_total{base_model="' in metrics
        assert "interfaces" not in metrics


async def test_clients_that_leave_cancel_their_answers(house: House) -> None:
    body = {"model": "ada", "messages": ASKED, "max_tokens": CONTEXT}
    async with serving(house.settings()) as server:
        with slowly() as hurry:
            clients = [server.http for _ in range(12)]
            streams = [
                client.send(client.build_request("POST", CHAT, json={**body, "stream": True}), stream=True)
                for client in clients[:6]
            ]
            waiting = [asyncio.create_task(client.post(CHAT, json=body)) for client in clients[6:]]
            responses = await asyncio.gather(*streams)
            await until(lambda: in_flight(server, {"base": 12}))
            for response in responses:
                await response.aclose()
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            for client in clients:
                await client.aclose()
            await until(lambda: in_flight(server, {}))
            hurry.set()
        async with server.http as http:
            assert 'persona_requests_total{outcome="left",persona="ada"} 12.0' in (await http.get("/metrics")).text
