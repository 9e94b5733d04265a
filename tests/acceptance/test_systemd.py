"""The units: well-formed and hardened by what systemd-analyze says, and true to their promises on a real systemd."""

import os
import re
import subprocess
from pathlib import Path
from shutil import which

import pytest

from daemon.config.sections import Service
from scripts.world.base import ensure_base, world_of
from tests.acceptance import systemd_scenario
from tests.acceptance.support import corrections
from tests.acceptance.systemd_support import PLAY_S, UNITS, Played, analyze, installed_tree, no_box

needs_analyze = pytest.mark.skipif(which("systemd-analyze") is None, reason="there is no systemd-analyze")
SERVICES = [systemd_scenario.DAEMON, systemd_scenario.SERVE]


@needs_analyze
@pytest.mark.parametrize("drop_ins", [[], ["gpu.conf"], ["network.conf"], ["gpu.conf", "network.conf"]])
def test_verify_has_nothing_to_say(drop_ins: list[str], tmp_path: Path) -> None:
    root = installed_tree(tmp_path, drop_ins)
    # Its exit code is 0 for an unknown key, too; only the silence tells.
    assert analyze("verify", f"--root={root}", *SERVICES) == ""


@needs_analyze
@pytest.mark.parametrize("service", SERVICES)
def test_there_is_little_to_attack(service: str) -> None:
    said = analyze("security", "--offline=true", UNITS / service)
    found = re.search(r"exposure level for \S+: ([\d.]+)", said)
    assert found, said
    assert float(found[1]) <= systemd_scenario.MOST_EXPOSED, said


@pytest.mark.parametrize("service", SERVICES)
def test_a_stop_may_take_longer_than_the_grace(service: str) -> None:
    timeout = re.search(r"^TimeoutStopSec=(\d+)s$", (UNITS / service).read_text(encoding="utf-8"), re.MULTILINE)
    assert timeout
    assert int(timeout[1]) >= Service().grace + 10


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--help"], 0, "usage: sudo systemd/install"),
        (["--sideways"], 2, "install: What is --sideways? See systemd/install --help."),
        (["--venv"], 2, "install: --venv needs a value. See systemd/install --help."),
    ],
)
def test_the_installer_says_what_it_wants(arguments: list[str], code: int, sentence: str) -> None:
    done = subprocess.run([UNITS / "install", *arguments], capture_output=True, text=True, check=False, timeout=240)
    assert (done.returncode, sentence in done.stdout + done.stderr) == (code, True), done


@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="systemd runs here, so this would install")
def test_the_installer_stops_where_it_cannot_work() -> None:
    done = subprocess.run([UNITS / "install"], capture_output=True, text=True, check=False, timeout=240)
    wanted = "This needs root" if os.geteuid() else "systemd does not run here"
    assert done.returncode == 1
    assert done.stderr.startswith(f"install: {wanted}")


@pytest.mark.timeout(PLAY_S + 300)
def test_the_units_keep_their_promises(subtests: pytest.Subtests, tmp_path: Path) -> None:
    """One boot for the whole story; tests/acceptance/systemd_scenario.py tells it."""
    if reason := no_box():
        pytest.skip(reason)
    base = ensure_base("test")
    world = world_of(base)
    taught = {"learn": corrections(world, 10, seed=6), "more": corrections(world, 3, seed=6, start=10)}
    played = Played(tmp_path, base, taught)
    steps = played.steps()
    for expected in systemd_scenario.STEPS:
        step = next(steps, None)
        if not played.booted:
            pytest.skip(f"no box boots here: {played.errors().strip()}")
        with subtests.test(expected.__name__):
            assert step is not None, f"not reached\n{played.errors()}"
            print(f"{step.seconds:5.1f} s  {step.step}: {step.said}")
            assert step.step == expected.__name__
            assert step.ok, f"{step.said}\n{played.errors()}"
        if step is None:
            return
