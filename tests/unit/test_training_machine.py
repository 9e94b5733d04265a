"""What a machine has to train with: the least of what is free, what control groups leave, and a limit."""

from pathlib import Path

import pytest

from daemon.training.engine import machine

GIB = 2**30


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Control groups as the kernel shows them: an outer one of 8 GiB, and this process's, without a bound, in it."""
    own = tmp_path / "cgroup" / "outer" / "own"
    own.mkdir(parents=True)
    (own / "memory.max").write_text("max\n")
    (own / "memory.current").write_text(f"{2 * GIB}\n")
    (own.parent / "memory.max").write_text(f"{8 * GIB}\n")
    (own.parent / "memory.current").write_text(f"{5 * GIB}\n")
    (own.parent / "memory.stat").write_text(f"anon {4 * GIB}\ninactive_file {GIB // 4}\nactive_file {GIB * 3 // 4}\n")
    (tmp_path / "self").write_text("1:name=systemd:/elsewhere\n0::/outer/own\n")
    monkeypatch.setattr(machine, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "_OWN_GROUP", tmp_path / "self")
    # So that the groups are what is least, however little this machine has.
    files = {"MemAvailable": 100 * GIB, "MemTotal": 200 * GIB, "VmRSS": GIB}
    monkeypatch.setattr(machine, "_bytes_of", lambda file, key: files[key])
    return own.parent


def test_what_others_in_a_control_group_use_is_not_free(groups: Path) -> None:
    # 8 GiB, less the 4 that are no cache, plus the one of them that is this process's.
    assert machine.free_memory() == 5 * GIB
    assert machine.all_memory() == 8 * GIB
    assert machine.free_memory(3) == machine.all_memory(3) == 3 * GIB
    (groups / "memory.current").write_text(f"{20 * GIB}\n")
    assert machine.free_memory() == 0


def test_a_group_without_a_bound_bounds_nothing(groups: Path) -> None:
    (groups / "memory.max").write_text("max\n")
    assert machine.free_memory() == 101 * GIB
    (groups / "memory.max").unlink()
    assert machine.free_memory() == 101 * GIB


def test_a_peak_is_forgotten() -> None:
    taken = bytearray(200 << 20)
    before = machine.peak_memory()
    del taken
    machine.forget_peak()
    assert before - machine.peak_memory() > 100 << 20
