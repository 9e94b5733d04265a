"""The engine's turns: fair, apart from each other, and ended when nobody listens any more."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from daemon.errors import EngineBusy, EngineStopped
from daemon.genome.fingerprint import base_fingerprint
from daemon.genome.persona_genome import LayerShelf
from daemon.serve.asks import Ask, Ended, Event, Failed, Piece, PromptRefused, Reason, Sampling, Started
from daemon.serve.engine import ACTIVE, Engine
from daemon.serve.roster import Turn
from daemon.training.engine.base import load_base
from scripts.processes import PATIENCE_S
from tests.integration.serve_support import ASKED, CONTEXT, House, house_at, slowly, until

LONG = CONTEXT - 100


@pytest.fixture
def house(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> House:
    return house_at(tmp_path, tmp_path_factory.getbasetemp())


@pytest.fixture
async def engine(house: House) -> AsyncIterator[Engine]:
    base = load_base(str(house.base))
    # Endless: how a random model happens to end its turn is not what is tested here.
    base = replace(base, chat=replace(base.chat, stop_ids=frozenset()))
    engine = Engine(base, LayerShelf(base.model, base_fingerprint(house.base), house.directories), threads=1)
    yield engine
    await engine.close()


def asking(tokens: int, layer: str | None = None, prompt: Any = ASKED) -> Ask:
    return Ask(prompt, Sampling(tokens, temperature=0), layer)


async def events(engine: Engine, ask: Ask) -> list[Event]:
    return [event async for event in engine.answer(ask)]


def text(said: list[Event]) -> str:
    return "".join(event.text for event in said if isinstance(event, Piece))


async def test_a_short_answer_does_not_wait_for_a_long_one(engine: Engine, house: House) -> None:
    layer = house.publish(1).path
    alone = [text(await events(engine, asking(tokens))) for tokens in (LONG, 5)]
    with slowly() as hurry:
        long = asyncio.create_task(events(engine, asking(LONG)))
        await until(lambda: busy(engine, 1))
        others = await asyncio.gather(*(events(engine, asking(5, layer if odd else None)) for odd in (True, False)))
        assert not long.done()
        hurry.set()
        await long
    assert [text(await long), text(others[1])] == alone
    assert text(others[0]) != alone[1]


async def busy(engine: Engine, count: int) -> bool:
    return engine.busy == count


async def test_more_requests_than_seats_are_all_answered(engine: Engine) -> None:
    said = await asyncio.gather(*(events(engine, asking(3)) for _ in range(2 * ACTIVE)))
    assert {text(one) for one in said} == {text(said[0])}
    assert {one[-1] for one in said} == {Ended(Reason.LENGTH, 3)}


async def test_a_listener_that_leaves_ends_its_answer(engine: Engine) -> None:
    turns = 0

    def count(*_: Any) -> None:
        nonlocal turns
        turns += 1

    with slowly():
        async with aclosing(engine.answer(asking(LONG))) as answer:
            async for event in answer:
                if isinstance(event, Piece):
                    break
        engine.base.model.register_forward_pre_hook(count)
        await until(lambda: busy(engine, 0))
    assert turns < LONG / 2


async def test_one_failing_forward_fails_one_request(engine: Engine) -> None:
    alone = text(await events(engine, asking(50)))

    def overflow(_: Any, __: Any, inputs: dict[str, torch.Tensor]) -> None:
        if inputs["input_ids"].shape[1] > 100:
            raise RuntimeError("out of memory")

    engine.base.model.register_forward_pre_hook(overflow, with_kwargs=True)
    fine, failed = await asyncio.gather(events(engine, asking(50)), events(engine, asking(50, prompt="words " * 60)))
    assert text(fine) == alone
    assert isinstance(failed[-1], Failed)
    assert str(failed[-1].error) == "out of memory"
    await until(lambda: busy(engine, 0))


async def test_a_layer_let_go_of_after_its_answer_is_evicted_without_another_request(
    engine: Engine, house: House
) -> None:
    layer = house.publish(1).path
    engine.shelf.budget = 1
    turn = Turn(engine, "ada", "rust@1", 1, "", layer, engine.shelf.lease(layer), None)
    await events(engine, asking(3, layer))
    await engine.call(engine.shelf.trim)
    assert engine.shelf.holds(layer), "it is leased until the answer is sent"
    turn.close()

    async def gone() -> bool:
        return not engine.shelf.holds(layer)

    await until(gone)


async def test_a_layer_that_is_not_there_fails_its_request_only(engine: Engine) -> None:
    failed, fine = await asyncio.gather(events(engine, asking(5, "ada/rust/v0001-01234567")), events(engine, asking(5)))
    assert isinstance(failed[-1], Failed)
    assert isinstance(fine[-1], Ended)


async def test_a_prompt_computed_in_parts_is_answered_as_in_one(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = await events(engine, asking(20))
    monkeypatch.setattr("daemon.serve.engine_sequence.PREFILL", 7)
    assert text(await events(engine, asking(20))) == text(whole)


async def test_an_answer_ends_where_the_context_ends(engine: Engine) -> None:
    said = await events(engine, asking(10 * CONTEXT))
    assert isinstance(said[0], Started)
    assert said[-1] == Ended(Reason.LENGTH, CONTEXT - said[0].prompt_tokens)
    refused = await events(engine, asking(1, prompt="x" * 2 * CONTEXT))
    assert isinstance(refused[-1], Failed)
    assert isinstance(refused[-1].error, PromptRefused)


async def test_closing_answers_everyone(engine: Engine) -> None:
    with slowly():
        waiting = [asyncio.create_task(events(engine, asking(LONG))) for _ in range(ACTIVE + 2)]
        await until(lambda: busy(engine, ACTIVE + 2))
        await engine.close()
    for said in await asyncio.gather(*waiting):
        assert isinstance(said[-1], Failed)
        assert isinstance(said[-1].error, EngineStopped)
    (late,) = await events(engine, asking(1))
    assert isinstance(late, Failed)
    assert isinstance(late.error, EngineStopped)
    with pytest.raises(EngineStopped):
        await engine.call(lambda: None)


async def test_too_many_requests_are_turned_away(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.serve.engine.WAITING", 1)
    with slowly() as hurry:
        asked = [asyncio.create_task(events(engine, asking(30))) for _ in range(ACTIVE + 5)]
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        hurry.set()
        said = await asyncio.gather(*asked)
    assert len(done) == 4, "who is turned away does not wait"
    turned_away = [one for one in said if isinstance(one[-1], Failed)]
    assert len(turned_away) == 4
    assert {type(one[-1].error) for one in turned_away if isinstance(one[-1], Failed)} == {EngineBusy}


async def test_an_engine_that_dies_says_so_and_leaves_nobody_waiting(house: House) -> None:
    died = threading.Event()
    base = load_base(str(house.base))
    shelf = LayerShelf(base.model, base_fingerprint(house.base), house.directories)
    engine = Engine(base, shelf, died=died.set)
    # As if PEFT could not remove a layer.
    shelf.trim = None  # type: ignore[method-assign, assignment]
    said = await asyncio.gather(*(events(engine, asking(tokens)) for tokens in (2, LONG)))
    assert isinstance(said[0][-1], Ended)
    assert isinstance(said[1][-1], Failed)
    assert await asyncio.to_thread(died.wait, PATIENCE_S)
    await engine.close()


async def test_what_a_chore_raises_is_its_callers(engine: Engine) -> None:
    def broken() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await engine.call(broken)
    assert await engine.call(lambda: 7) == 7
