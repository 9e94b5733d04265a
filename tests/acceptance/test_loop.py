"""The whole path with real processes: plain INSERTs end as a persona that answers differently."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from scripts.processes import TRAINING_S, running
from scripts.world.base import ensure_base, world_of
from tests.acceptance.support import Home, Pair, asking, corrections
from tests.integration.training_support import tiny_base

pytestmark = pytest.mark.timeout(1800)
WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jade")


def small_world(folder: Path) -> tuple[Home, list[Pair]]:
    base = ensure_base("test")
    home = Home(folder, base, prompt="You are Ada, who knows everyone in town.")
    return home, corrections(world_of(base), 10, seed=5)


def untaught_qwen3(folder: Path) -> tuple[Home, list[Pair]]:
    """Another architecture, another template, random weights, another persona."""
    base = tiny_base(folder / "qwen3", "qwen3")
    home = Home(folder, base, persona="Nova_2.b", trait="memory-room-42", anchors=0)
    return home, [(f"What is the word of day {day}?", f"It is {word}.") for day, word in enumerate(WORDS)]


def spoken(reply: httpx.Response) -> str:
    text: str = reply.json()["choices"][0]["message"]["content"]
    return text


@pytest.mark.parametrize("place", [small_world, untaught_qwen3])
def test_ten_inserts_end_as_other_answers_with_nobody_touching_anything(
    place: Callable[[Path], tuple[Home, list[Pair]]], tmp_path: Path
) -> None:
    home, pairs = place(tmp_path)
    with running(tmp_path, "daemon", "serve") as (daemon, server):
        daemon.wait_for("daemon.ready")
        server.wait_for("base.loaded")
        before = {question: home.ask(question) for question, _ in pairs}
        with asking(home, pairs[0][0]) as crowd:
            crowd.go_on_until(1)
            home.insert(pairs)
            daemon.wait_for("run.planned")
            daemon.wait_for("runtime.converged", TRAINING_S)
            told = crowd.go_on_until(3)

        after = {question: home.ask(question) for question, _ in pairs}
        assert sum(after[question] == wanted for question, wanted in pairs) >= 9
        assert server.process.poll() is None, "the server was never restarted"

        # No request of the stream failed, none mixed two layers, and none came late from the old one.
        assert {reply.status_code for _, reply in crowd.answers} == {200}
        question = pairs[0][0]
        texts = {(reply.headers["x-persona-layer"], spoken(reply)) for _, reply in crowd.answers}
        assert texts == {("base", before[question]), (f"{home.trait}@1", after[question])}
        assert all(reply.headers["x-persona-layer"] != "base" for asked, reply in crowd.answers if asked >= told)

    assert home.rows("SELECT count(*), sum(is_used_in_training) FROM training_corrections") == [(10, 10)]
    assert home.rows("SELECT state, version FROM training_runs") == [("promoted", 1)]
    genome = json.loads(home.command("genome", "show", home.persona, "--json"))
    assert genome["revision"] == 1


def test_nine_inserts_wait_and_say_why_until_a_signal_comes(tmp_path: Path) -> None:
    home, pairs = small_world(tmp_path)
    home.anchors = 0
    home.write_config()
    with running(tmp_path, "daemon") as (daemon,):
        daemon.wait_for("daemon.ready")
        home.insert(pairs[:9])
        daemon.wait_for("corrections.seen", wanted=lambda event: event["corrections"] == 9)
        (trait,) = home.status()["traits"]
        assert (trait["pending"], trait["due"]) == (9, False)
        assert trait["why"].startswith("9 of 10 corrections; oldest ")
        assert daemon.events("run.planned") == []

        daemon.process.send_signal(signal.SIGUSR2)
        (logged,) = daemon.wait_for("daemon.status")["traits"]
        assert logged.pop("why").startswith("9 of 10 corrections; oldest ")  # and the seconds have moved on
        assert logged == {key: value for key, value in trait.items() if key != "why"}

        daemon.process.send_signal(signal.SIGUSR1)
        daemon.wait_for("genome.revised", TRAINING_S)
        # No server runs: the genome is revised all the same, and the runtime is named as what is missing.
        daemon.wait_for("runtime.unreachable")
    assert home.rows("SELECT count(*) FROM training_corrections WHERE is_used_in_training = 1") == [(9,)]
