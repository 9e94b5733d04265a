"""The base model on disk: built once per preset, sources and library versions, then only read."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp

from scripts.world.facts import World
from scripts.world.pretrain import LORES, PRESETS, Progress, pretrain


def default_cache() -> Path:
    """`.cache` in the repository's root, unless PERSONA_CACHE names another folder."""
    return Path(os.environ.get("PERSONA_CACHE") or Path(__file__).parents[2] / ".cache")


def ensure_base(
    preset: str, cache: Path | None = None, report: Callable[[Progress], None] = lambda progress: None
) -> Path:
    """The folder of the preset's model, built first if it is missing; raises KeyError for an unknown preset."""
    settings = PRESETS[preset]
    folder = (cache or default_cache()) / "base" / f"{preset}-{fingerprint(preset)}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock")):
        if not folder.is_dir():
            aside = Path(mkdtemp(prefix=f".{preset}-", dir=folder.parent))
            try:
                pretrain(settings, aside, report)
                aside.chmod(0o755)
                aside.rename(folder)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    return folder


def world_of(folder: Path) -> World:
    """The world that a base was taught."""
    about = json.loads((folder / "world.json").read_text())
    return World.generate(about["seed"], about["people"], LORES[about["lore"]])


def about_base(folder: Path) -> str:
    """One line on what a base knows, how large it is and how long it took."""
    about = json.loads((folder / "world.json").read_text())
    return (
        f"{about['facts']} facts, {about['accuracy']:.1%} answered"
        f" ({about['held_out_phrasings']:.1%} in phrasings never trained),"
        f" {about['parameters'] / 1e6:.1f} M parameters, built in {about['seconds']:.0f} s"
    )


def fingerprint(preset: str) -> str:
    """Twelve hex digits over all that decides the weights: settings, sources and library versions."""
    settings = PRESETS[preset]
    digest = hashlib.sha256(f"{settings} {LORES[settings.lore]}".encode())
    for name in ("torch", "transformers", "tokenizers"):
        digest.update(f"{name}=={version(name)}".encode())
    for source in ("lexicon", "facts", "chats", "tokens", "evaluate", "pretrain"):
        digest.update(Path(__file__).with_name(f"{source}.py").read_bytes())
    return digest.hexdigest()[:12]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on the file; the system releases it when the process ends, however it ends."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
