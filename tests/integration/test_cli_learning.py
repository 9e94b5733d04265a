"""`persona train`, `runs` and `genome`: with a daemon, and alone under its lock; real trainings, small ones."""

import getpass
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.cli.asking import ask
from daemon.config.settings import Config
from daemon.errors import DaemonSilent
from daemon.store.store import open_store
from scripts.processes import PATIENCE_S, PERSONA, TRAINING_S, Process
from scripts.world.facts import World
from tests.integration.cli_support import QUICK, Desk
from tests.processes import started, wait_until


@pytest.fixture
def desk(tmp_path: Path, base: Path) -> Desk:
    desk = Desk(tmp_path, {"defaults.base_model": str(base), "training.threads": 1, **QUICK})
    desk.ok("init")
    return desk


@pytest.fixture
def daemon(desk: Desk) -> Iterator[Process]:
    with desk.daemon() as process:
        yield process


def test_alone_everything_is_done_under_the_lock(desk: Desk, world: World) -> None:
    assert desk.persona("train").code == 3
    ids = desk.correct(world, "rust")
    desk.correct(world, "known", start=4, true=True)
    trained = desk.ok("train", "--persona", "ada", "--json").json
    by_trait = {run["trait"]: run for run in trained["runs"]}
    assert {trait: run["state"] for trait, run in by_trait.items()} == {"rust": "promoted", "known": "satisfied"}
    run = by_trait["rust"]
    _runs_are_told(desk, run["id"], ids)
    _the_genome_moves(desk)
    assert desk.ok("status", "--json").json["daemon"]["state"] == "stopped"


def _runs_are_told(desk: Desk, run: str, ids: list[str]) -> None:
    (listed,) = desk.ok("runs", "list", "--trait", "rust", "--json").json
    assert listed["id"] == run
    shown = desk.ok("runs", "show", run[:8], "--json").json
    assert (shown["state"], sorted(shown["corrections"])) == ("promoted", ids)
    assert shown["evidence"]["metrics"]["seconds"]
    assert sum(probe["group"] == "batch" for probe in shown["evidence"]["probes"]) == 2
    page = desk.ok("runs", "show", run[:8]).out
    assert listed["reason"][:30] in page
    assert ids[0][:8] in page
    assert desk.persona("runs", "show", "nope").code == 1
    done = desk.persona("runs", "cancel", run)
    assert (done.code, done.err) == (1, f"Run {run} is promoted already.\n")


def _the_genome_moves(desk: Desk) -> None:
    back = desk.ok("genome", "rollback", "ada", "rust")
    assert "the base model again (revision 2)" in back.out
    assert "persona genome pin ada rust 1" in back.out
    assert {row["state"] for row in desk.ok("corrections", "list", "--trait", "rust", "--json").json} == {"quarantined"}
    assert desk.persona("genome", "rollback", "ada", "rust").code == 1
    pinned = desk.ok("genome", "pin", "ada", "rust", "1", "--json").json
    assert (pinned["revision"], pinned["version"]) == (3, 1)
    # What the server follows was written, too: nobody else is there to do it.
    followed = json.loads((desk.folder / "var" / "layers" / "genomes" / "ada.json").read_text())
    assert (followed["revision"], followed["traits"]["rust"]["version"]) == (3, 1)
    shown = desk.ok("genome", "show", "ada", "--json").json["traits"]["rust"]
    assert (shown["version"], shown["pinned"], shown["versions"][0]["state"]) == (1, True, "active")
    assert desk.persona("genome", "rollback", "ada", "rust", "--to", "0").code == 1
    desk.ok("genome", "unpin", "ada", "rust")
    assert "v1" not in desk.ok("genome", "show", "ada").err
    kinds = [event["kind"] for event in desk.ok("genome", "history", "ada", "--json").json]
    assert kinds == ["unpinned", "pinned", "rolled-back", "promoted"]
    actors = {event["actor"] for event in desk.ok("genome", "history", "ada", "--json").json}
    assert actors == {"daemon", getpass.getuser()}
    assert desk.persona("genome", "show", "nobody").code == 1
    assert "v0001" not in desk.ok("check").out
    next((desk.folder / "var" / "layers" / "ada" / "rust").glob("*/adapter_model.safetensors")).write_bytes(b"junk")
    broken = {check["name"]: check for check in desk.persona("check", "--json").json["checks"]}["layer of ada:rust"]
    assert not broken["ok"] and broken["says"].endswith("put it back, or: persona genome rollback ada rust")


def test_layers_are_taken_over_and_merged(desk: Desk, world: World) -> None:
    desk.correct(world, "rust")
    desk.correct(world, "notes", start=4)
    desk.ok("train")
    transfer = desk.ok("genome", "transfer", "rust", "--from", "ada", "--to", "bob", "--json")
    assert "bob is a new persona" in transfer.err
    (taken,) = transfer.json["runs"]
    assert (taken["persona"], taken["state"], taken["purpose"]) == ("bob", "promoted", "transfer")
    assert "transfer of ada:rust@1" in desk.ok("genome", "history", "bob").out
    merged = desk.ok("genome", "merge", "ada", "all", "rust", "ada:notes@1=0.5", "--method", "linear")
    assert re.match(r"[1-9]\d* corrections come along\.\nada:all v1  promoted", merged.out)
    refused = desk.persona("genome", "transfer", "rust", "--from", "carl", "--to", "bob")
    assert (refused.code, refused.err) == (
        1,
        "carl:rust has learnt nothing, or all of it was undone; see: persona genome history carl\n",
    )
    for layer in ("rust@x", "a:b:c", "@1", "rust=much"):
        unnamed = desk.persona("genome", "merge", "ada", "all", "notes", layer)
        assert unnamed.code == 2 and f"{layer} names no layer" in unnamed.err


def test_the_exit_code_of_a_training_says_what_the_gate_said(desk: Desk, world: World) -> None:
    desk.configure(gate__enabled=True, training__learning_rate=1e-9)
    desk.correct(world, "rust", start=4)
    done = desk.persona("train")
    assert done.code == 4
    assert "rejected" in done.out
    desk.configure(training__timeout=0.01, training__max_attempts=1)
    done = desk.persona("train", "--json")
    assert (done.code, done.json["runs"][0]["state"]) == (1, "failed")


def test_once_does_what_is_due_and_says_what_came_of_it(desk: Desk, world: World) -> None:
    assert "Nothing is due" in (nothing := desk.persona("daemon", "--once")).err and nothing.code == 3
    desk.configure(triggers__min_corrections=2, gate__enabled=True, training__learning_rate=1e-9)
    desk.correct(world, "rust")
    assert desk.persona("daemon", "--once").code == 4, "the gate rejected"
    desk.configure(gate__enabled=False)
    desk.ok("daemon", "--once")
    assert desk.ok("status", "--json").json["genomes"][0]["traits"] == {"rust": 2}


def test_what_hinders_a_training_is_a_failure_and_says_what_to_do(desk: Desk, world: World) -> None:
    desk.correct(world, "rust")
    desk.configure(defaults__base_model=str(desk.folder / "nowhere"))
    done = desk.persona("train")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("Nothing can be trained. ada:rust: no base model at ")
    assert desk.persona("train", "--json").code == 1
    assert desk.persona("train", "--trait", "css").code == 3


def test_ctrl_c_puts_back_what_a_command_trains_and_says_so(desk: Desk, world: World) -> None:
    desk.configure(training__epochs=100_000)
    desk.correct(world, "rust")
    with started(PERSONA, "train", cwd=desk.folder, stderr=subprocess.PIPE) as command:
        deadline = time.monotonic() + TRAINING_S
        while not any(run["step"] for run in desk.ok("status", "--json").json["runs"]):
            assert command.poll() is None and time.monotonic() < deadline
        # Others are answered meanwhile, by who holds the daemon's lock.
        asked = desk.persona("genome", "unpin", "ada", "rust")
        assert asked.code == 1 and "not pinned" in asked.err
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=PATIENCE_S)
    assert command.returncode == 130
    assert said.strip().endswith(
        "Stopped; what was under way is put back, and goes on with `persona daemon` or `persona train`."
    )
    (run,) = desk.ok("status", "--json").json["runs"]
    assert (run["state"], run["attempt"]) == ("planned", 2)


def test_a_daemon_is_asked_and_answers(desk: Desk, daemon: Process, world: World) -> None:
    assert desk.ok("status", "--json").json["daemon"]["state"] == "ready"
    assert desk.persona("train", "--trait", "rust").code == 3
    desk.correct(world, "rust")
    done = desk.ok("train", "--wait", "--json")
    assert [run["state"] for run in done.json["runs"]] == ["promoted"]
    rolled = desk.ok("genome", "rollback", "ada", "rust", "--json").json
    assert (rolled["undone"], rolled["quarantined"]) == ([1], 2)
    refused = desk.persona("genome", "rollback", "ada", "rust")
    assert (refused.code, refused.out) == (1, "")
    assert "speaks with the base model" in refused.err
    kinds = [(event["kind"], event["by"]) for event in daemon.events() if event["event"].startswith("request.")]
    user = getpass.getuser()
    assert kinds == [("train", user), ("train", user), ("rollback", user), ("rollback", user)]


def test_what_comes_while_a_run_is_under_way_is_waited_for_too(desk: Desk, daemon: Process, world: World) -> None:
    desk.correct(world, "rust")
    (first,) = desk.ok("train", "--json").json["runs"]
    desk.correct(world, "rust", start=2)
    runs = desk.ok("train", "--wait", "--json").json["runs"]
    assert {run["state"] for run in runs} == {"promoted"}
    # Where the first run was over by then, the second one alone was asked for.
    assert len(runs) == (2 if first["id"] in {run["id"] for run in runs} else 1)
    rows = desk.ok("corrections", "list", "--json").json
    assert [row["state"] for row in rows] == ["used"] * 4, "the run under way, and the one that was owed after it"


def test_a_run_is_cancelled_while_it_trains(desk: Desk, world: World) -> None:
    desk.configure(training__epochs=100_000)
    with desk.daemon() as daemon:
        desk.correct(world, "rust")
        (planned,) = desk.ok("train", "--json").json["runs"]
        # A child takes seconds to start, and says so meanwhile.
        wait_until(lambda: desk.ok("status", "--json").json["runs"][0]["doing"], "nobody said what was done")
        daemon.wait_for("run.training", TRAINING_S)
        (running,) = desk.ok("status", "--json").json["runs"]
        assert running["id"] == planned["id"]
        assert running["steps"] > 1000
        assert "loss" in desk.ok("status").out
        desk.ok("runs", "cancel", planned["id"][:8])
    assert desk.ok("runs", "show", planned["id"], "--json").json["state"] == "cancelled"
    assert [row["state"] for row in desk.ok("corrections", "list", "--json").json] == ["pending", "pending"]


async def test_what_a_silent_daemon_was_asked_is_withdrawn(desk: Desk, daemon: Process) -> None:
    config = Config.load(desk.folder / "config.toml")
    os.kill(daemon.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(DaemonSilent, match="has not answered") as silent:
            await ask(config, "unpin", {"persona": "ada", "trait": "rust"}, patience=0.3)
    finally:
        os.kill(daemon.process.pid, signal.SIGCONT)
    assert silent.value.exit_code == 75
    async with open_store(config.store.path) as store:
        assert await store.requests.asked() == []
