"""TRL's environment, made when it is missing, and what two Pythons and a machine are."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

PINS = {
    "torch": "2.13.0",
    "trl": "1.16.0",
    "transformers": "5.23.0",
    "peft": "0.21.2",
    "accelerate": "1.15.0",
    "datasets": "5.2.0",
    "psutil": "7.2.2",
}
"""TRL's newest release, and beside it the versions that the engine has too."""
OURS = ("torch", "transformers", "peft", "safetensors")
THEIRS = ("torch", "transformers", "peft", "trl")
NATIVE = ("amx_bf16", "avx512_bf16", "bf16")
"""Names, in the system's list of what the processor can do, for products of bfloat16."""
_ASK = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""
_ASK_DEVICE = "from scripts.benchmarks.training.gauge import device_name; print(device_name())"


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the numbers come from."""

    device: str
    """The GPU, or else the processor, by name."""
    cuda: bool
    cores: int
    threads: int
    """Of both sides."""
    native: str
    """How the processor multiplies bfloat16; empty when it does not."""


def this_machine(threads: int, root: Path) -> Machine:
    """Ask the system, and torch for a GPU."""
    gpu = subprocess.run([sys.executable, "-c", _ASK_DEVICE], cwd=root, capture_output=True, text=True, check=True)
    model, flags = _processor()
    native = next((name for name in NATIVE if name in flags), "")
    cores = len(os.sched_getaffinity(0))
    name = gpu.stdout.strip()
    return Machine(name or model, bool(name), cores, threads or cores, native)


def versions(python: Path, names: tuple[str, ...]) -> dict[str, str]:
    """What an interpreter has of some packages; those that it has not are left out."""
    asked = subprocess.run([python, "-c", _ASK, *names], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(asked.stdout)
    return found


def ensure_trl(folder: Path, say: Callable[[str], None]) -> Path:
    """The Python of TRL's environment, with the pinned versions; raises CalledProcessError when pip cannot."""
    python = folder / "bin" / "python"
    if python.exists() and same(versions(python, tuple(PINS)), PINS):
        return python
    say(f"making TRL's own environment in {folder.name}/ (some minutes; torch is the large one)")
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    wanted = [f"{name}=={version}" for name, version in PINS.items()]
    for names in (wanted[:1], wanted):
        say(f"pip install {' '.join(names)}")
        quiet = ["--quiet", "--quiet", "--disable-pip-version-check"]
        subprocess.run([python, "-m", "pip", "install", *quiet, *names], check=True, stdout=sys.stderr)
    return python


def same(found: Mapping[str, str], pins: Mapping[str, str]) -> bool:
    """Whether all that is pinned is there, a build's own suffix aside ("2.13.0+cpu")."""
    return all(found.get(name, "").partition("+")[0] == version for name, version in pins.items())


def _processor() -> tuple[str, set[str]]:
    """Its name, and what the system says that it can do."""
    name, flags = platform.processor() or platform.machine(), set[str]()
    about = Path("/proc/cpuinfo")
    for line in about.read_text(encoding="utf-8").splitlines() if about.exists() else []:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        if key.strip() in ("flags", "Features"):
            flags = set(value.split())
    return name, flags
