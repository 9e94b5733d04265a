"""The fingerprint of a base model: the same for every copy of its folder, another for any other model."""

import hashlib
from functools import lru_cache
from pathlib import Path

from daemon.errors import BaseModelUnusable
from daemon.genome.base_folder import parts
from daemon.genome.files import sha256_of


def base_fingerprint(folder: Path) -> str:
    """SHA-256 over a base model's config, tokenizer, chat template and weights; raises BaseModelUnusable."""
    try:
        lines = [f"{path.name} {path.stat().st_size} {_content(path)}\n" for path in parts(folder)]
    except OSError as error:
        raise BaseModelUnusable(f"The base model at {folder} cannot be read: {error.strerror or error}.") from None
    if not any(".safetensors " in line for line in lines):
        raise BaseModelUnusable(f"The base model at {folder} has no *.safetensors file.")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _content(path: Path) -> str:
    stat = path.stat()
    return _hashed_once(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=256)
def _hashed_once(path: Path, size: int, mtime_ns: int, inode: int) -> str:
    """The hash of gigabytes of weights, once per process for as long as the file stays as it is."""
    return sha256_of(path)
