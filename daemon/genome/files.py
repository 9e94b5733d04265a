"""What the layer directory needs of the file system: private, durable, hashed."""

import hashlib
import json
import os
import tempfile
from pathlib import Path

PRIVATE_DIRECTORY = 0o700
PRIVATE_FILE = 0o600
_LONGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors format itself."""


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hex; raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until a file, or the list of names in a directory, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_private(directory: Path, root: Path) -> None:
    """Create a directory, its root, and what lies between for the owner alone; every new name is on the disk then."""
    root.parent.mkdir(parents=True, exist_ok=True)
    missing = []
    while directory != root.parent and not directory.is_dir():
        missing.append(directory)
        directory = directory.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        path.chmod(PRIVATE_DIRECTORY)
        sync(path.parent)


def write_whole(path: Path, text: str) -> None:
    """Replace a file atomically: a reader sees the old text or the new one, also after a power cut."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), PRIVATE_FILE)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync(path.parent)


def safetensors_problem(path: Path) -> str | None:
    """Why a file is no whole safetensors file, or None; reads the header only."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _LONGEST_HEADER:
            return "it is no safetensors file"
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return "its safetensors header is not readable"
    if not ends:
        return "it holds no tensor"
    if path.stat().st_size != 8 + length + max(ends):
        return f"it has {path.stat().st_size} bytes instead of {8 + length + max(ends)}"
    return None
