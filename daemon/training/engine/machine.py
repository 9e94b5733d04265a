"""What this machine has to train with; standard library only, so that the daemon can ask it, too."""

from contextlib import suppress
from ctypes import CDLL
from functools import cache
from pathlib import Path

LARGE = 20_000_000
"""Parameters from which half precision is faster on a processor; smaller models wait for other things than products."""
_HALF = {"avx512_bf16", "amx_bf16", "bf16"}
"""Features of a processor that multiplies bfloat16 natively, as Linux names them (x86-64 and Arm)."""


def halved(parameters: int) -> bool:
    """Whether the processor is faster with a model of this size in bfloat16."""
    return parameters >= LARGE and halves()


@cache
def halves() -> bool:
    """Whether the processor multiplies bfloat16 natively."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    features = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return not _HALF.isdisjoint(features.partition(":")[2].split())


def free_memory(limit: float = 0) -> int:
    """Bytes that this process could use in all, what it uses already included; `limit` in GiB, 0: none.

    The least of what the system has to spare, of what the control group allows, and of the limit.
    """
    return _least(_bytes_of("/proc/meminfo", "MemAvailable") + _bytes_of("/proc/self/status", "VmRSS"), limit)


def all_memory(limit: float = 0) -> int:
    """Bytes that this process could use if nothing else ran here; `limit` in GiB, 0: none."""
    return _least(_bytes_of("/proc/meminfo", "MemTotal"), limit)


def give_back() -> None:
    """Return what is free in the C library's heap to the system: what comes next seldom fits into its holes."""
    with suppress(AttributeError, OSError):  # only glibc has this
        CDLL(None).malloc_trim(0)


def accelerated() -> bool:
    """Whether there is a CUDA device, as its driver says."""
    return Path("/proc/driver/nvidia/gpus").is_dir()


def _least(there: int, limit: float) -> int:
    """The least of what is there, of the control group's bounds, and of a limit in GiB; bytes."""
    bounds = [there, *_group_bounds()] if there else [1 << 62]
    return min([*bounds, int(limit * 2**30)] if limit else bounds)


def _bytes_of(file: str, key: str) -> int:
    """A line "Key: 123 kB" in bytes; 0 where there is none."""
    try:
        lines = Path(file).read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)


def _group_bounds() -> list[int]:
    """What the control group of this process, and those above it, may use (cgroup v2)."""
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8").strip().rpartition("::")[2]
    except OSError:
        return []
    root = Path("/sys/fs/cgroup")
    folder = root / own.lstrip("/")
    bounds = []
    for group in (folder, *folder.parents):
        if not group.is_relative_to(root):
            break
        try:
            bounds.append(int((group / "memory.max").read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue  # "max", or a group that counts no memory
    return bounds
