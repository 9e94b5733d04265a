"""The gate can say no; what it refused, and what an admin undid, does not come back by itself."""

import json
from pathlib import Path

import pytest

from scripts.processes import TRAINING_S, running
from scripts.world.base import ensure_base, world_of
from tests.acceptance.support import Home, corrections
from tests.processes import wait_until

AT_ONCE = "[triggers]\nquiet = 0\nmin_corrections = 5\n"
"""No burst is waited for: what the planner finds due when it looks, it plans; and five are soon learnt."""
DESTRUCTIVE = f'{AT_ONCE}[training]\npolicy = "fixed"\nepochs = 60\nlearning_rate = 0.003\n[gate]\nsuspects = 0\n'
"""Trains the batch alone, from the last layer on, and far too long: what was learnt before is overwritten."""


def looks_again(home: Home) -> None:
    """Have the planner look once more, and see it done: to answer whoever asks for nobody, it looks at everybody."""
    home.sql("INSERT INTO admin_requests (id, kind, args) VALUES ('look', 'train', '{\"persona\": \"nobody\"}')")
    state = "SELECT state FROM admin_requests WHERE id = 'look'"
    wait_until(lambda: home.rows(state) == [("done",)], "the planner did not answer")


@pytest.mark.timeout(3600)
def test_a_batch_that_breaks_what_was_learnt_is_rejected_and_stays_away(tmp_path: Path) -> None:
    base = ensure_base("test")
    home, world = Home(tmp_path, base, extra=AT_ONCE, anchors=0), world_of(base)
    first, second, third = (corrections(world, 5, seed=8, start=start) for start in (0, 5, 10))
    with running(tmp_path, "daemon", "serve") as (daemon, server):
        daemon.wait_for("daemon.ready")
        server.wait_for("base.loaded")
        home.insert(first)
        daemon.wait_for("runtime.converged", TRAINING_S)
        assert home.answered(first) == 5
        before = {question: home.ask(question) for question, _ in [*first, *second]}

        home.write_config(DESTRUCTIVE)
        daemon.wait_for("config.reloaded")
        home.insert(second)
        rejected = daemon.wait_for("run.rejected", TRAINING_S)
        assert "forgot" in rejected["reason"]
        assert {question: home.ask(question) for question, _ in [*first, *second]} == before
        assert home.rows("SELECT count(*) FROM training_corrections WHERE is_used_in_training = 1") == [(5,)]

        # Four more are not five: the rejected rows do not count towards a batch again.
        home.insert(third[:4])
        daemon.wait_for("corrections.seen", wanted=lambda event: event["corrections"] == 9)
        looks_again(home)
        assert len(daemon.events("run.planned")) == 2
        (trait,) = home.status()["traits"]
        assert (trait["pending"], trait["due"]) == (9, False)
        assert "the last run was rejected; due again with 5 new corrections (4 so far)" in trait["why"]

        # With a config that learns, the same rows are due again, and are learnt.
        home.write_config(AT_ONCE)
        daemon.wait_for("run.planned", wanted=lambda event: event["version"] == 3)
        daemon.wait_for("runtime.converged", TRAINING_S, lambda event: event["revision"] == 2)
        assert home.answered([*second, *third[:4]]) >= 8

        # Rolled back, the batch stays undone when the next one is learnt.
        undone = json.loads(home.command("genome", "rollback", home.persona, home.trait, "--json"))
        assert undone["version"] == 1
        daemon.wait_for("runtime.converged", wanted=lambda event: event["revision"] == 3)
        assert home.answered(first) == 5
        last = corrections(world, 5, seed=8, start=15)
        home.insert(last)
        daemon.wait_for("runtime.converged", TRAINING_S, lambda event: event["revision"] == 4)
        assert home.answered(last) == 5
        assert home.answered(first) == 5
        assert home.answered(second) <= 1
    assert home.rows("SELECT count(*) FROM training_corrections WHERE quarantined_reason = 'rolled back with v3'") == [
        (9,)
    ]
