"""What a crash leaves in the middle is finished by the next start, once."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from scripts.processes import running
from scripts.world.base import ensure_base, world_of
from tests.acceptance.support import Home, corrections


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home on the small world."""
    return Home(tmp_path, ensure_base("test"))


def children_of(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def test_killed_in_training_and_started_again_the_corrections_are_used_once(home: Home) -> None:
    pairs = corrections(world_of(home.base), 10, seed=6)
    with running(home.folder, "daemon") as (first,):
        first.wait_for("daemon.ready", 30)
        home.insert(pairs)
        first.wait_for("run.training", 60)
        children = children_of(first.process.pid)
        assert children, "the trainer is a child of the daemon"
        first.process.kill()
        first.process.wait(10)
        # The trainer dies with its parent, although nobody is left to tell it.
        _gone, alive = psutil.wait_procs(children, timeout=10)
        assert alive == []
    assert home.rows("SELECT state FROM training_runs") == [("training",)]
    assert home.rows("SELECT sum(is_used_in_training) FROM training_corrections") == [(0,)]

    logged = (home.folder / "daemon.log").stat().st_size
    with running(home.folder, "daemon") as (second,):
        second.wait_for("run.recovered", 30, since=logged)
        second.wait_for("genome.revised", 120, since=logged)
    assert home.rows("SELECT state, version, attempt FROM training_runs") == [("promoted", 1, 2)]
    assert home.rows("SELECT count(*), count(DISTINCT correction_id) FROM run_corrections WHERE outcome = 'used'") == [
        (10, 10)
    ]
    assert home.rows("SELECT count(*) FROM genome_layers") == [(1,)]
    assert not list((home.folder / "var" / "layers" / ".staging").glob("*/*"))


def test_asked_to_stop_in_training_it_leaves_soon_and_loses_nothing(home: Home) -> None:
    pairs = corrections(world_of(home.base), 10, seed=6)
    with running(home.folder, "daemon") as (daemon,):
        daemon.wait_for("daemon.ready", 30)
        home.insert(pairs)
        daemon.wait_for("run.training", 60)
        children = children_of(daemon.process.pid)
        began = time.monotonic()
        assert daemon.end() == 0
        assert time.monotonic() - began < 10
        assert [event["event"] for event in daemon.events()][-2:] == ["daemon.draining", "daemon.stopped"]
        assert psutil.wait_procs(children, timeout=5)[1] == []
    assert home.rows("SELECT state, attempt, failures FROM training_runs") == [("planned", 2, 0)]
    assert home.rows("SELECT outcome, count(*) FROM run_corrections GROUP BY 1") == [("claimed", 10)]


def test_asked_twice_it_leaves_at_once(home: Home) -> None:
    with running(home.folder, "daemon") as (daemon,):
        daemon.wait_for("daemon.ready", 30)
        # Stopped first, so that both signals are pending when it looks again.
        os.kill(daemon.process.pid, signal.SIGSTOP)
        daemon.process.send_signal(signal.SIGTERM)
        daemon.process.send_signal(signal.SIGINT)
        os.kill(daemon.process.pid, signal.SIGCONT)
        assert daemon.process.wait(10) == 1


def test_a_second_daemon_is_refused_with_a_sentence(home: Home) -> None:
    with running(home.folder, "daemon") as (daemon,):
        daemon.wait_for("daemon.ready", 30)
        with running(home.folder, "daemon") as (second,):
            assert second.process.wait(30) == 75
        text = second.log.read_text()
        assert f"is held by another daemon (pid {daemon.process.pid}); stop that one first" in text
        assert "Traceback" not in text
        assert daemon.process.poll() is None
