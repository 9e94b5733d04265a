"""What this machine has to train with; standard library only, so that the daemon can ask it, too."""

from contextlib import suppress
from ctypes import CDLL
from functools import cache
from pathlib import Path

LARGE = 20_000_000
"""Parameters from which half precision is faster on a processor; smaller models wait for other things than products."""
_GROUPS, _OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_HALF = {"avx512_bf16", "amx_bf16", "bf16"}
"""Features of a processor that multiplies bfloat16 natively, as Linux names them (x86-64 and Arm)."""


def halved(parameters: int) -> bool:
    """Whether the processor is faster with a model of this size in bfloat16."""
    return parameters >= LARGE and halves()


@cache
def halves() -> bool:
    """Whether the processor multiplies bfloat16 natively."""
    features = (words for words in _lines(Path("/proc/cpuinfo")) if words[0].lower() in ("flags", "features"))
    return not _HALF.isdisjoint(next(features, []))


def free_memory(limit: float = 0) -> int:
    """Bytes that this process could use in all, what it uses already included; `limit` in GiB, 0: none.

    The least of what the system has to spare, of what the control group allows, and of the limit.
    """
    own = _bytes_of("/proc/self/status", "VmRSS")
    groups = [most - used + own for most, used in _groups()]
    return _least(_bytes_of("/proc/meminfo", "MemAvailable") + own, groups, limit)


def all_memory(limit: float = 0) -> int:
    """Bytes that this process could use if nothing else ran here; `limit` in GiB, 0: none."""
    return _least(_bytes_of("/proc/meminfo", "MemTotal"), [most for most, _ in _groups()], limit)


def give_back() -> None:
    """Return what is free in the C library's heap to the system: what comes next seldom fits into its holes."""
    with suppress(AttributeError, OSError):  # only glibc has this
        CDLL(None).malloc_trim(0)


def peak_memory() -> int:
    """Most bytes of memory that this process has had since `forget_peak`, or since its start."""
    return _bytes_of("/proc/self/status", "VmHWM")


def forget_peak() -> None:
    """Have `peak_memory` begin anew, where the kernel lets it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def accelerated() -> bool:
    """Whether there is a CUDA device, as its driver says."""
    return Path("/proc/driver/nvidia/gpus").is_dir()


def _least(there: int, groups: list[int], limit: float) -> int:
    """The least of what is there, of what the control groups leave, and of a limit in GiB; bytes."""
    bounds = [there or 1 << 62, *groups]
    return max(0, min([*bounds, int(limit * 2**30)] if limit else bounds))


def _bytes_of(file: str, key: str) -> int:
    """A line "Key: 123 kB" in bytes; 0 where there is none."""
    return next((int(words[1]) * 1024 for words in _lines(Path(file)) if words[0] == f"{key}:"), 0)


def _groups() -> list[tuple[int, int]]:
    """Of the control group of this process and those above it (cgroup v2): most bytes, and how many are in use now.

    What is in use as a cache of files is given back when somebody asks for it.
    """
    own = next((line[0].rpartition("::")[2] for line in _lines(_OWN_GROUP) if line[0].startswith("0::")), None)
    folder = _GROUPS / own.lstrip("/") if own else _GROUPS
    found = []
    for group in (folder, *folder.parents):
        if not group.is_relative_to(_GROUPS):
            break
        most, used = (_number(group / name) for name in ("memory.max", "memory.current"))
        if most is not None:
            kinds = ("inactive_file", "active_file")
            cache = sum(int(words[1]) for words in _lines(group / "memory.stat") if words[0] in kinds)
            found.append((most, max(0, (used or 0) - cache)))
    return found


def _number(file: Path) -> int | None:
    """The number in a file; None where it says "max", or is not there."""
    words = next(iter(_lines(file)), [""])
    return int(words[0]) if words[0].isdigit() else None


def _lines(file: Path) -> list[list[str]]:
    """The words of each line of a file of the kernel; none where it is not there."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return [line.split() for line in text.splitlines() if line.strip()]
