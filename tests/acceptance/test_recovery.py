"""What a crash leaves in the middle is finished by the next start, once."""

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from scripts.processes import PATIENCE_S, TRAINING_S, Process, running
from scripts.world.base import ensure_base, world_of
from tests.acceptance.support import ENDLESS, Home, corrections
from tests.processes import gone, wait_until

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home on the small world."""
    return Home(tmp_path, ensure_base("test"), anchors=0)


def in_training(daemon: Process, home: Home) -> list[int]:
    """Bring a daemon into the middle of a training that does not end; its children."""
    daemon.wait_for("daemon.ready")
    home.insert(corrections(world_of(home.base), 10, seed=6))
    daemon.wait_for("run.training", TRAINING_S)
    children = [child.pid for child in psutil.Process(daemon.process.pid).children(recursive=True)]
    assert children, "the trainer is a child of the daemon"
    return children


def test_killed_in_training_and_started_again_the_corrections_are_used_once(home: Home) -> None:
    home.write_config(ENDLESS)
    with running(home.folder, "daemon") as (first,):
        children = in_training(first, home)
        first.process.kill()
        first.process.wait(PATIENCE_S)
        # The trainer dies with its parent, although nobody is left to tell it.
        assert all(map(gone, children))
    assert home.rows("SELECT state FROM training_runs") == [("training",)]
    assert home.rows("SELECT sum(is_used_in_training) FROM training_corrections") == [(0,)]

    home.write_config()
    logged = (home.folder / "daemon.log").stat().st_size
    with running(home.folder, "daemon") as (second,):
        second.wait_for("run.recovered", since=logged)
        second.wait_for("genome.revised", TRAINING_S, since=logged)
    assert home.rows("SELECT state, version, attempt FROM training_runs") == [("promoted", 1, 2)]
    assert home.rows("SELECT count(*), count(DISTINCT correction_id) FROM run_corrections WHERE outcome = 'used'") == [
        (10, 10)
    ]
    assert home.rows("SELECT count(*) FROM genome_layers") == [(1,)]
    assert not list((home.folder / "var" / "layers" / ".staging").glob("*/*"))


def test_asked_to_stop_in_training_it_leaves_soon_and_loses_nothing(home: Home) -> None:
    # Whoever has not left by the end of the grace is told from who did by the exit code.
    home.write_config(f"{ENDLESS}[service]\ngrace = '60s'\n")
    with running(home.folder, "daemon") as (daemon,):
        children = in_training(daemon, home)
        assert daemon.end(grace=PATIENCE_S) == 0
        assert [event["event"] for event in daemon.events()][-2:] == ["daemon.draining", "daemon.stopped"]
        assert all(map(gone, children))
    assert home.rows("SELECT state, attempt, failures FROM training_runs") == [("planned", 2, 0)]
    assert home.rows("SELECT outcome, count(*) FROM run_corrections GROUP BY 1") == [("claimed", 10)]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_training_goes_on_where_the_last_daemon_left_it(home: Home, how: signal.Signals) -> None:
    home.write_config(f'{ENDLESS}checkpoint = "100ms"\n')
    staged = home.folder / "var" / "layers" / ".staging"
    with running(home.folder, "daemon") as (first,):
        in_training(first, home)
        wait_until(lambda: bool(list(staged.glob("*/checkpoint/state.json"))), "a checkpoint")
        first.process.send_signal(how)
        first.process.wait(PATIENCE_S)
    logged = (home.folder / "daemon.log").stat().st_size
    with running(home.folder, "daemon") as (second,):
        resumed = second.wait_for("run.resumed", TRAINING_S, since=logged)
        training = second.wait_for("run.training", TRAINING_S, since=logged)
    assert 1 <= resumed["step"] < training["step"]


def test_asked_twice_it_leaves_at_once(home: Home) -> None:
    home.write_config(f"{ENDLESS}[service]\ngrace = '1h'\n")
    with running(home.folder, "daemon") as (daemon,):
        children = in_training(daemon, home)
        with closing(sqlite3.connect(home.store, isolation_level=None, timeout=PATIENCE_S)) as foreign:
            # What it trains cannot be put back while another program writes, so it waits, as long as the grace is.
            foreign.execute("BEGIN IMMEDIATE")
            daemon.process.send_signal(signal.SIGTERM)
            daemon.wait_for("daemon.draining")
            daemon.process.send_signal(signal.SIGINT)
            assert daemon.process.wait(PATIENCE_S) == 1
        assert all(map(gone, children))
    assert home.rows("SELECT state FROM training_runs") == [("training",)]


def test_a_second_daemon_is_refused_with_a_sentence(home: Home) -> None:
    with running(home.folder, "daemon") as (daemon,):
        daemon.wait_for("daemon.ready")
        with running(home.folder, "daemon") as (second,):
            assert second.process.wait(PATIENCE_S) == 75
        text = second.log.read_text()
        assert f"is held by another daemon (pid {daemon.process.pid}); stop that one first" in text
        assert "Traceback" not in text
        assert daemon.process.poll() is None
