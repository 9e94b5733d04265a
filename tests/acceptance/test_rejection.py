"""The gate can say no; what it refused, and what an admin undid, does not come back by itself."""

import json
import signal
from pathlib import Path

from scripts.processes import Process, running
from scripts.world.base import ensure_base, world_of
from tests.acceptance.support import Home, corrections

DESTRUCTIVE = '[training]\npolicy = "fixed"\nepochs = 60\nlearning_rate = 0.003\n'
"""Trains the batch alone, from the last layer on, and far too long: what was learnt before is overwritten."""


def looks_again(daemon: Process) -> None:
    """Have the planner look once more, and see it done."""
    logged = daemon.log.stat().st_size
    daemon.process.send_signal(signal.SIGUSR2)
    daemon.wait_for("daemon.status", 15, since=logged)


def test_a_batch_that_breaks_what_was_learnt_is_rejected_and_stays_away(tmp_path: Path) -> None:
    base = ensure_base("test")
    home, world = Home(tmp_path, base), world_of(base)
    first, second, third = (corrections(world, 10, seed=8, start=start) for start in (0, 10, 20))
    with running(tmp_path, "daemon", "serve") as (daemon, server):
        daemon.wait_for("daemon.ready", 30)
        server.wait_for("base.loaded", 60)
        home.insert(first)
        daemon.wait_for("runtime.converged", 120)
        assert home.answered(first) >= 9
        before = {question: home.ask(question) for question, _ in [*first, *second]}

        home.write_config(DESTRUCTIVE)
        daemon.wait_for("config.reloaded", 15)
        home.insert(second)
        rejected = daemon.wait_for("run.rejected", 120)
        assert "forgot" in rejected["reason"]
        assert {question: home.ask(question) for question, _ in [*first, *second]} == before
        assert home.rows("SELECT count(*) FROM training_corrections WHERE is_used_in_training = 1") == [(10,)]

        # Nine more are not ten: the rejected rows do not count towards a batch again.
        home.insert(third[:9])
        daemon.wait_for("corrections.seen", 15, lambda event: event["corrections"] == 19)
        looks_again(daemon)
        assert len(daemon.events("run.planned")) == 2
        (trait,) = home.status()["traits"]
        assert (trait["pending"], trait["due"]) == (19, False)
        assert "the last run was rejected; 9 of 10 new corrections since" in trait["why"]

        # With a config that learns, the same rows are due again, and are learnt.
        home.write_config()
        daemon.wait_for("run.planned", 30, lambda event: event["version"] == 3)
        daemon.wait_for("runtime.converged", 150, lambda event: event["revision"] == 2)
        assert home.answered([*second, *third[:9]]) >= 17

        # Rolled back, the batch stays undone when the next one is learnt.
        undone = json.loads(home.command("genome", "rollback", home.persona, home.trait, "--json"))
        assert undone["version"] == 1
        daemon.wait_for("runtime.converged", 30, lambda event: event["revision"] == 3)
        assert home.answered(first) >= 9
        last = corrections(world, 10, seed=8, start=30)
        home.insert(last)
        daemon.wait_for("runtime.converged", 150, lambda event: event["revision"] == 4)
        assert home.answered(last) >= 9
        assert home.answered(first) >= 9
        assert home.answered(second) <= 2
    assert home.rows("SELECT count(*) FROM training_corrections WHERE quarantined_reason = 'rolled back with v3'") == [
        (19,)
    ]
