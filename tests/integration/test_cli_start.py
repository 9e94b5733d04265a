"""`persona init`, `check` and `status` where little or nothing is there yet."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.config.settings import Config
from daemon.service.checks import findings
from scripts.processes import PATIENCE_S, PERSONA
from tests.integration.cli_support import Desk
from tests.processes import started


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_init_writes_a_config_and_creates_the_store(tmp_path: Path) -> None:
    home = tmp_path / "new" / "home"
    ran = subprocess.run([PERSONA, "init", str(home)], cwd=tmp_path, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "base_model" in ran.stdout
    assert len(ran.stdout.splitlines()) <= 5
    assert (home / "var" / "persona.db").is_file()
    assert "[triggers]" in (home / "config.toml").read_text()


def test_init_keeps_the_config_that_is_there_and_brings_up_the_store(desk: Desk) -> None:
    before = (desk.folder / "config.toml").read_bytes()
    done = desk.ok("init")
    assert "stays as it is" in done.out
    assert (desk.folder / "config.toml").read_bytes() == before
    assert desk.store.is_file()
    assert desk.ok("status", "--json").json["traits"] == []


def test_without_a_store_or_config_there_is_a_sentence_with_a_way_out(desk: Desk) -> None:
    for command in (["status"], ["status", "--json"], ["runs", "list"], ["train"], ["genome", "rollback", "a", "b"]):
        done = desk.persona(*command)
        assert (done.code, done.out) == (1, ""), command
        assert "persona init" in done.err
    assert not desk.store.exists()
    (desk.folder / "config.toml").unlink()
    done = desk.persona("status")
    assert (done.code, done.out) == (2, "")
    assert "persona init" in done.err


def test_a_wrong_config_and_a_wrong_option_are_usage(desk: Desk) -> None:
    (desk.folder / "config.toml").write_text("[triggers]\nmin_correction = 3\n")
    done = desk.persona("status")
    assert done.code == 2
    assert "min_corrections" in done.err
    assert desk.persona("check", "--json").code == 2
    assert desk.persona("status", "--nonsense").code == 2
    assert desk.persona("status", "--watch", "--json").code == 2


def test_check_has_one_line_for_everything_and_says_what_to_do(desk: Desk, base: Path) -> None:
    done = desk.persona("check", "--json")
    assert done.code == 1
    wrong = {check["name"]: check["says"] for check in done.json["checks"] if not check["ok"]}
    assert wrong.keys() == {"store", "base model"}
    assert "persona init" in wrong["store"]
    assert "set defaults.base_model, or personas.NAME.base_model" in wrong["base model"]
    empty = desk.folder / "empty"
    empty.mkdir()
    (empty / "config.json").write_text("{}")
    desk.configure(defaults__base_model=str(empty))
    desk.ok("init")
    checks = {check["name"]: check for check in desk.persona("check", "--json").json["checks"]}
    assert "no tokenizer" in checks["base model"]["says"]
    desk.configure(defaults__base_model=str(base))
    done = desk.persona("check", COLUMNS="400")
    assert [line.split("  ")[0] for line in done.out.splitlines()] == [
        "config", "store", "layers", "base model", "memory", "trainer", "runtime embedded",
    ]  # fmt: skip
    assert [" ok " in line for line in done.out.splitlines()] == [True] * 7
    assert re.search(
        r"takes about 0\.\d\d GiB, 0\.\d\d with a reserve, of \d+\.\d\d that are free: float32, up to 4,096 tokens",
        done.out,
    )
    assert "not started; start it: persona serve" in done.out


def test_check_reads_the_critical_probes(desk: Desk, base: Path) -> None:
    file = desk.folder / "critical.jsonl"
    file.write_text('{"context": "Who are you?", "expected": "I am Ada."}\n', encoding="utf-8")
    desk.configure(defaults__base_model=str(base), gate__critical=str(file))
    found = {check["name"]: check for check in desk.persona("check", "--json").json["checks"]}["critical probes"]
    assert (found["ok"], found["says"]) == (True, f"1 in {file}")
    file.write_text("Who are you?\n", encoding="utf-8")
    found = {check["name"]: check for check in desk.persona("check", "--json").json["checks"]}["critical probes"]
    assert not found["ok"] and found["says"].startswith(f"Line 1 of the critical probes {file} is none: ")


def test_check_says_where_training_fits_into_no_memory(desk: Desk, base: Path) -> None:
    desk.configure(defaults__base_model=str(base), training__max_memory_gb=0.3)
    checks = {check["name"]: check for check in desk.persona("check", "--json").json["checks"]}
    assert not checks["memory"]["ok"]
    why = r"training needs at least 0\.\d\d GiB of memory and max_memory_gb allows 0\.30; raise it, \d+ GiB"
    assert re.match(r"training on \S+: " + why, checks["memory"]["says"])


def test_check_says_where_only_small_batches_fit(desk: Desk, base: Path) -> None:
    """Such a training goes on, so it is no fault."""
    desk.configure(defaults__base_model=str(base), training__max_memory_gb=0.47)
    checks = {check["name"]: check for check in desk.persona("check", "--json").json["checks"]}
    assert checks["memory"]["ok"]
    assert re.search(
        r"has room for small batches, float32, .* for usual ones training needs at least 0\.\d\d",
        checks["memory"]["says"],
    )


def test_check_names_target_modules_that_a_base_has_not(desk: Desk, base: Path) -> None:
    for targets, fine in (("q_proj,mlp.up_proj", True), ("q_proj,query", False)):
        desk.configure(defaults__base_model=str(base), training__target_modules=targets)
        checks = {check["name"]: check for check in desk.persona("check", "--json").json["checks"]}
        assert ("target modules" not in checks) is fine
    says = checks["target modules"]["says"]
    assert re.match(r"training.target_modules names query, but \S+ has down_proj, gate_proj, k_proj", says)


def test_check_plans_each_way_of_training_on_a_base(desk: Desk, base: Path) -> None:
    """One that fits must not hide another that does not."""
    text = f"[defaults]\nbase_model = '{base}'\n" + "".join(
        f"[personas.{name}.training]\nmax_memory_gb = {limit}\n" for name, limit in (("eve", 0.3), ("fay", 4.0))
    )
    (desk.folder / "config.toml").write_text(text)
    checks = desk.persona("check", "--json").json["checks"]
    assert [check["ok"] for check in checks if check["name"] == "memory"] == [True, False, True]


async def test_check_says_what_a_method_of_some_trait_lacks(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    for method, ok in (("rslora", True), ("qlora", False)):
        config = desk.folder / "methods.toml"
        config.write_text(f"[personas.ada.traits.rust.training]\nmethod = '{method}'\n")
        (found,) = [finding async for finding in findings(Config.load(config, {})) if finding.name == "trainer"]
        assert found.ok is ok and ("pip install bitsandbytes" in found.says) is not ok


def test_status_tells_what_the_contract_says_with_the_daemon_down(desk: Desk, base: Path) -> None:
    desk.configure(defaults__base_model=str(base))
    desk.ok("init")
    with sqlite3.connect(desk.store) as store:
        store.execute(
            "INSERT INTO training_corrections (persona_id, trait_type, original_response, expected_response)"
            " VALUES ('ada', 'rust', 'no', 'yes')"
        )
    store.close()
    document = desk.ok("status", "--json").json
    assert document["daemon"]["state"] == "stopped"
    (trait,) = document["traits"]
    promised = {"persona": "ada", "trait": "rust", "pending": 1, "claimed": 0, "used": 0, "quarantined": 0}
    assert promised.items() <= trait.items()
    assert (trait["due"], trait["layer"]) == (False, None)
    with sqlite3.connect(desk.store) as store:
        store.execute("UPDATE training_corrections SET quarantined_reason = 'bad'")
    store.close()
    (aside,) = desk.ok("status", "--json").json["traits"]
    assert aside["why"] == "nothing pending; 1 set aside, see: persona corrections list --state quarantined"
    with sqlite3.connect(desk.store) as store:
        store.execute("UPDATE training_corrections SET quarantined_reason = NULL")
    store.close()
    assert trait["why"].startswith("1 of 10 corrections")
    assert (document["runs"], document["genomes"]) == ([], [])
    assert document["runtimes"][0].keys() >= {"name", "kind", "desired", "observed", "state", "error"}
    assert "1 of 10 corrections" in desk.ok("status").out


def test_a_writer_in_the_middle_keeps_nobody_from_reading(desk: Desk) -> None:
    desk.ok("init")
    locker = sqlite3.connect(desk.store, isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    desk.ok("status")
    desk.ok("corrections", "list")
    locker.close()


def test_a_store_that_cannot_be_used_is_a_sentence(desk: Desk) -> None:
    desk.ok("init")
    desk.store.write_bytes(b"no database at all" * 100)
    done = desk.persona("status")
    assert done.code == 1
    assert "not a SQLite database" in done.err


def test_ctrl_c_while_the_daemon_starts_is_quiet(desk: Desk) -> None:
    lock = desk.store.with_name("persona.db.lock")
    with started(PERSONA, "daemon", cwd=desk.folder, stderr=subprocess.PIPE) as process:
        while not lock.exists() and process.poll() is None:
            os.sched_yield()
        # As a terminal does: to the daemon, and to whatever it started.
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode in (0, 130), said
    assert "Traceback" not in said


def test_a_loop_that_dies_ends_the_daemon_with_one_event(desk: Desk) -> None:
    with desk.daemon() as daemon:
        second = desk.persona("daemon")
        assert second.code == 75
        refused = json.loads(second.err)
        assert (refused["event"], refused["level"]) == ("daemon.failed", "critical")
        assert "held by another daemon" in refused["reason"]
        with sqlite3.connect(desk.store) as store:
            store.execute("DROP TABLE admin_requests")
        store.close()
        assert daemon.process.wait(PATIENCE_S) == 1
        lines = daemon.log.read_text().splitlines()
        events = [json.loads(line) for line in lines]
        (failed,) = [event for event in events if event["event"] == "daemon.failed"]
        assert "no such table" in failed["reason"]
        assert "Traceback" in failed["exception"]
