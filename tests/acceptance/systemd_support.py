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
PLAY_S = 3_000.0
"""What the whole scenario may take; a minute or two where nobody else is at work."""
_NOT_BOOTED = 125
_TARGETS = Path("/usr/lib/systemd/system")
_COMMAND_S = 240.0
"""What a command may take that takes a moment where nobody else is at work."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a step of the scenario saw, or why it failed; `seconds` it took."""

    step: str
    ok: bool
    said: str
    seconds: float


def box() -> Path | None:
    """The tool that boots a box: what the environment names, else the first that lies beside the project."""
    if named := os.environ.get("PERSONA_SYSTEMD_BOX"):
        return Path(named)
    return next(iter(sorted(PROJECT.parent.glob("*/tools/systemd-box"))), None)


def no_box() -> str | None:
    """Why no box can be booted here, or None."""
    tool = box()
    if tool is None or not tool.is_file():
        return f"there is no {tool or 'systemd box'}; PERSONA_SYSTEMD_BOX names the tool that boots one"
    if os.geteuid() != 0:
        return "a systemd box needs root"
    missing = [tool for tool in ("sqlite3", "setpriv", "useradd", "pgrep") if which(tool) is None]
    if missing:
        return f"the scenario needs {', '.join(missing)}"
    return None


@dataclass
class Played:
    """A scenario that runs in a box of its own."""

    folder: Path
    base: Path
    corrections: Mapping[str, Sequence[tuple[str, str]]]
    booted: bool = True
    """Whether there was a box to play in, once all steps are over."""

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
        tool = box()
        assert tool is not None
        command: list[str | Path] = ["timeout", str(PLAY_S), tool, Path(__file__).with_name("systemd_box.sh")]
        with (
            (self.folder / "errors").open("w") as errors,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | {"BOX_BIND": given}
            ) as played,
        ):
            assert played.stdout is not None
            for line in played.stdout:
                yield Step(**json.loads(line))
        self.booted = played.returncode != _NOT_BOOTED

    def errors(self) -> str:
        """What the box and the scenario printed besides: the end of the journal, after a failure."""
        return (self.folder / "errors").read_text(encoding="utf-8")


def analyze(*arguments: str | Path) -> str:
    """Everything that systemd-analyze prints."""
    command = ["systemd-analyze", "--no-pager", *arguments]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=_COMMAND_S
    )
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
