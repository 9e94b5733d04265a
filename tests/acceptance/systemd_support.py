"""A systemd box: a real systemd in throw-away namespaces, and the scenario that is played in it."""

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copy, which

PROJECT = Path(__file__).parents[2]
UNITS = PROJECT / "systemd"
BOX = Path(os.environ.get("PERSONA_SYSTEMD_BOX") or PROJECT.parent / "shared" / "tools" / "systemd-box")
"""The tool that boots a box."""
_NOT_BOOTED = 125
_TARGETS = Path("/usr/lib/systemd/system")
_PLAY_S = 280.0


@dataclass(frozen=True, slots=True)
class Step:
    """What a step of the scenario saw, or why it failed; `seconds` it took."""

    step: str
    ok: bool
    said: str
    seconds: float


def no_box() -> str | None:
    """Why no box can be booted here, or None."""
    if not BOX.is_file():
        return f"there is no systemd box at {BOX}; PERSONA_SYSTEMD_BOX may name one"
    if os.geteuid() != 0:
        return "a systemd box needs root"
    missing = [tool for tool in ("sqlite3", "setpriv", "useradd", "pgrep") if which(tool) is None]
    if missing:
        return f"the scenario needs {', '.join(missing)}"
    booted = subprocess.run([BOX], input="true", capture_output=True, text=True, check=False, timeout=60)
    return f"no box boots here: {booted.stderr.strip()}" if booted.returncode == _NOT_BOOTED else None


@dataclass
class Played:
    """A scenario that runs in a box of its own."""

    folder: Path
    base: Path
    corrections: Mapping[str, Sequence[tuple[str, str]]]

    def steps(self) -> Iterator[Step]:
        """Every step, as soon as it is over; ends early after one that failed."""
        (self.folder / "corrections.json").write_text(json.dumps(self.corrections), encoding="utf-8")
        binds = {
            "project": PROJECT,
            "python": Path(sys.base_prefix),
            "packages": Path(sysconfig.get_path("purelib")),
            "base": self.base,
            "given": self.folder,
        }
        given = " ".join(f"{path}:/opt/bound/{name}" for name, path in binds.items())
        command: list[str | Path] = ["timeout", str(_PLAY_S), BOX, Path(__file__).with_name("systemd_box.sh")]
        with (
            (self.folder / "errors").open("w") as errors,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | {"BOX_BIND": given}
            ) as box,
        ):
            assert box.stdout is not None
            for line in box.stdout:
                yield Step(**json.loads(line))

    def errors(self) -> str:
        """What the box and the scenario printed besides: the end of the journal, after a failure."""
        return (self.folder / "errors").read_text(encoding="utf-8")


def analyze(*arguments: str | Path) -> str:
    """Everything that systemd-analyze prints."""
    command = ["systemd-analyze", "--no-pager", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60)
    return done.stdout


def installed_tree(root: Path, drop_ins: Sequence[str] = ()) -> Path:
    """A root directory as the installer leaves it, as far as `systemd-analyze verify` looks."""
    units = root / "etc" / "systemd" / "system"
    units.mkdir(parents=True)
    for unit in UNITS.glob("*.service"):
        copy(unit, units)
        for name in drop_ins:
            folder = units / f"{unit.name}.d"
            folder.mkdir(exist_ok=True)
            copy(UNITS / f"{name}.example", folder / name)
    for program in ("opt/persona-daemon/.venv/bin/persona", "bin/kill"):
        (root / program).parent.mkdir(parents=True)
        (root / program).touch(0o755)
    stock = root / "usr" / "lib" / "systemd" / "system"
    stock.mkdir(parents=True)
    for target in _TARGETS.glob("*.target"):
        copy(target, stock)
    return root
