"""The layers directory: layers are staged, published whole, and verified before anything names them.

<root>/<persona>/<trait>/v<NNNN>-<hash8>/   a published layer, never changed again
<root>/.staging/<run>/<attempt>/            where an attempt of a run writes its candidate
<root>/.anchors/                             what bases made up and answered, for trainers to hold them by
<root>/genomes/<persona>.json               what the server follows (daemon.genome.genome_file)
"""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from daemon.errors import LayerError, LayerIncomplete, PersonaError
from daemon.genome.files import (
    PRIVATE_DIRECTORY,
    PRIVATE_FILE,
    make_private,
    safetensors_problem,
    sha256_of,
    sync,
    write_whole,
)
from daemon.genome.manifest import FileRecord, Manifest

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_KEPT_SUFFIXES = frozenset({".safetensors", ".json", ".jsonl", ".md", ".txt"})
"""What a layer may consist of: weights as safetensors only (a pickle could run code), and plain text."""
_SLUG = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"v(\d{4,})-([0-9a-f]{8})")


@dataclass(frozen=True, slots=True)
class Published:
    """A layer that may be named: its directory relative to the layers root, and the hash of its content."""

    path: str
    content_hash: str


class LayerDirectories:
    """Every layer directory under one root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def ensure_writable(self) -> None:
        """Create the root when it is missing; raises PersonaError when layers could not be written there."""
        try:
            make_private(self.root, self.root)
            probe = self.root / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except (FileExistsError, NotADirectoryError) as error:
            in_the_way = error.filename or self.root
            raise PersonaError(f"The layers directory {self.root} cannot be made: {in_the_way} is a file.") from None
        except OSError as error:
            reason = error.strerror or error
            raise PersonaError(
                f"The layers directory {self.root} cannot be written: {reason}. Set layers.directory, or its owner."
            ) from None

    def ensure_readable(self) -> None:
        """Raise PersonaError when layers are there that could not be read; none yet is fine."""
        for directory in (self.root, self.root / "genomes"):
            if directory.exists() and not directory.is_dir():
                raise PersonaError(f"The layers directory {self.root} cannot be read: {directory} is a file.")
            if directory.exists() and not os.access(directory, os.R_OK | os.X_OK):
                raise PersonaError(
                    f"This user may not read the layers directory {self.root}: change the owner or mode of {directory}."
                )

    def staging(self, run: str, attempt: int) -> Path:
        """Where an attempt writes its candidate; its parent exists afterwards, it itself does not come to exist."""
        staged = self._staged_runs() / _slug(run, "run") / str(attempt)
        make_private(staged.parent, self.root)
        return staged

    def discard(self, run: str) -> None:
        """Remove what the attempts of a run have staged."""
        shutil.rmtree(self._staged_runs() / _slug(run, "run"), ignore_errors=True)

    def discard_candidates(self, run: str) -> None:
        """Remove the candidates that its attempts have staged, and keep what the next attempt can go on from."""
        folder = self._staged_runs() / _slug(run, "run")
        for staged in folder.iterdir() if folder.is_dir() else ():
            if staged.name.isdigit():
                shutil.rmtree(staged, ignore_errors=True)
        with suppress(OSError):
            folder.rmdir()  # where there is nothing to go on from

    def discard_all_but(self, runs: Collection[str]) -> None:
        """Remove what runs have staged that are over."""
        if self._staged_runs().is_dir():
            for folder in self._staged_runs().iterdir():
                if folder.name not in runs:
                    shutil.rmtree(folder, ignore_errors=True)

    def publish(self, staged: Path, manifest: Manifest) -> Published:
        """Make a staged candidate a layer; asked again after a crash, it answers the same; raises LayerError."""
        if not staged.is_dir():
            return self._published_before(staged, manifest)
        files = _describe(staged)
        content_hash = content_hash_of(files)
        complete = manifest.model_copy(update={"files": files})
        target = self._trait(manifest.persona, manifest.trait) / f"v{manifest.version:04d}-{content_hash[:8]}"
        published = Published(str(target.relative_to(self.root)), content_hash)
        if target.exists():
            if content_hash_of(self.verify(published.path).files) != content_hash:
                raise LayerError(f"Another layer is already published at {published.path}; move it away.")
            shutil.rmtree(staged)
            self.retract(manifest.persona, manifest.trait, manifest.version, manifest.learnt, target)
            return published
        write_whole(staged / Manifest.FILE, complete.text())
        _make_durable(staged)
        make_private(target.parent, self.root)
        # A version is its run's alone, and no row names the layer of a run that trains.
        self.retract(manifest.persona, manifest.trait, manifest.version, manifest.learnt, target)
        staged.rename(target)
        sync(target.parent)
        return published

    def verify(self, path: str) -> Manifest:
        """The manifest of a whole, unaltered layer; `path` is relative to the root; raises LayerIncomplete."""
        try:
            manifest = self._verified(path)
        except OSError as error:
            raise LayerIncomplete(f"The layer {path} is not usable: {error.strerror or error}.") from None
        except LayerIncomplete as error:
            raise LayerIncomplete(f"The layer {path} is not usable: {error}.") from None
        return manifest

    def taught(self, path: str) -> list[str]:
        """Ids of all the corrections that a layer's data was made of, by its manifest; none where it says nothing."""
        manifest = self.told(path)
        return manifest.taught if manifest else []

    def told(self, path: str) -> Manifest | None:
        """The manifest of a layer, whatever its files are like; None where it cannot be read."""
        return _told(self.root / path)

    def find(self, persona: str, trait: str, version: int) -> str | None:
        """The directory of one version relative to the root, if there is one; of several, the one made last."""
        if not _SLUG.fullmatch(persona) or not _SLUG.fullmatch(trait):
            return None
        found = self._of_version(self.root / persona / trait, version)
        if len(found) > 1:
            # Copied there by hand, or by a program that replaced none: only the last attempt can have been promoted.
            dated = {path: told.created_at for path in found if (told := _told(path))}
            found = sorted(dated, key=lambda path: dated[path])
        return str(found[-1].relative_to(self.root)) if found else None

    def retract(self, persona: str, trait: str, version: int, held: Collection[str], but: Path | None = None) -> None:
        """Remove what a run published that holds these corrections, and was not promoted; no row may name it."""
        for path in self._of_version(self._trait(persona, trait), version):
            told = _told(path) if path != but else None
            # Attempts of one run share corrections. What shares none came with another store, which may want it back.
            if told is not None and not set(told.learnt).isdisjoint(held):
                self._take_back(path)

    def _take_back(self, directory: Path) -> None:
        """Remove a layer at once for everybody who looks, however long it takes."""
        make_private(self._staged_runs(), self.root)
        with tempfile.TemporaryDirectory(dir=self._staged_runs(), ignore_cleanup_errors=True) as aside:
            directory.rename(Path(aside) / directory.name)

    @staticmethod
    def _of_version(trait: Path, version: int) -> list[Path]:
        named = ((path, _VERSION.fullmatch(path.name)) for path in sorted(trait.glob(f"v{version:04d}-*")))
        return [path for path, match in named if match and int(match[1]) == version]

    def _published_before(self, staged: Path, manifest: Manifest) -> Published:
        """What an earlier call published, when a crash hid its answer."""
        path = self.find(manifest.persona, manifest.trait, manifest.version)
        published = self.verify(path) if path else None
        # Another attempt's layer is another layer: what the gate saw of this candidate says nothing of that one.
        if path is None or published is None or _facts(published) != _facts(manifest):
            raise LayerIncomplete(f"There is no candidate of {manifest.name} at {staged}.")
        return Published(path, content_hash_of(published.files))

    def _verified(self, path: str) -> Manifest:
        persona, trait, version, short_hash = self._parts(path)
        directory = self.root / path
        if directory.resolve() != self.root.resolve() / path:
            raise LayerIncomplete("a symbolic link leads out of its place")
        manifest = Manifest.parse((directory / Manifest.FILE).read_bytes())
        if (manifest.persona, manifest.trait, manifest.version) != (persona, trait, version):
            raise LayerIncomplete(f"its manifest is of {manifest.name}")
        if content_hash_of(manifest.files)[:8] != short_hash:
            raise LayerIncomplete("its manifest describes other files than its name")
        _compare(directory, manifest.files)
        return manifest

    def _parts(self, path: str) -> tuple[str, str, int, str]:
        parts = path.split("/")
        named = _VERSION.fullmatch(parts[2]) if len(parts) == 3 else None
        if named is None or not _SLUG.fullmatch(parts[0]) or not _SLUG.fullmatch(parts[1]):
            raise LayerIncomplete("it is not <persona>/<trait>/v<NNNN>-<hash> below the layers directory")
        return parts[0], parts[1], int(named[1]), named[2]

    def _trait(self, persona: str, trait: str) -> Path:
        return self.root / _slug(persona, "persona") / _slug(trait, "trait")

    @property
    def pantry(self) -> Path:
        """Where trainers keep what a base makes up."""
        return self.root / ".anchors"

    def _staged_runs(self) -> Path:
        return self.root / ".staging"


def _told(directory: Path) -> Manifest | None:
    """What the manifest in a directory says, if it says anything."""
    try:
        return Manifest.parse((directory / Manifest.FILE).read_bytes())
    except (OSError, LayerIncomplete):
        return None


def _facts(manifest: Manifest) -> Manifest:
    """A manifest without what differs from one telling to the next."""
    return manifest.model_copy(update={"files": {}, "created_at": None})


def content_hash_of(files: Mapping[str, FileRecord]) -> str:
    """One SHA-256 over the names and hashes of a layer's files, in hex."""
    lines = "".join(f"{name} {files[name].sha256}\n" for name in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def _slug(name: str, what: str) -> str:
    """A name that is safe as one part of a path; raises LayerError."""
    if not _SLUG.fullmatch(name):
        raise LayerError(f"The {what} {name!r} cannot name a directory: use A-Z a-z 0-9 . _ -, with no leading dot.")
    return name


def _describe(staged: Path) -> dict[str, FileRecord]:
    """Size and hash of every staged file; raises LayerIncomplete when they make no layer."""
    files = {}
    for path in sorted(staged.iterdir()):
        if path.name == Manifest.FILE:
            continue
        if path.is_symlink() or not path.is_file() or path.suffix not in _KEPT_SUFFIXES:
            raise LayerIncomplete(f"The candidate at {staged} holds {path.name}, which is no part of a layer.")
        if path.suffix == ".safetensors" and (problem := safetensors_problem(path)):
            raise LayerIncomplete(f"The candidate at {staged} is broken: {path.name}: {problem}.")
        files[path.name] = FileRecord(sha256=sha256_of(path), size=path.stat().st_size)
    for name in (WEIGHTS, CONFIG):
        if name not in files:
            raise LayerIncomplete(f"The candidate at {staged} lacks {name}.")
    return files


def _make_durable(staged: Path) -> None:
    """Put every file of a folder on the disk, readable by its owner alone."""
    for path in staged.iterdir():
        path.chmod(PRIVATE_FILE)
        sync(path)
    staged.chmod(PRIVATE_DIRECTORY)
    sync(staged)


def _compare(directory: Path, files: Mapping[str, FileRecord]) -> None:
    """Raise LayerIncomplete, or OSError, unless a directory holds exactly these files."""
    for required in (WEIGHTS, CONFIG):
        if required not in files:
            raise LayerIncomplete(f"its manifest names no {required}")
    present = {path.name for path in directory.iterdir()} - {Manifest.FILE}
    if extra := sorted(present - set(files)):
        raise LayerIncomplete(f"{extra[0]} is not in its manifest")
    for name, record in files.items():
        path = directory / name
        if name not in present:
            raise LayerIncomplete(f"{name} is missing")
        if path.is_symlink() or not path.is_file() or path.suffix not in _KEPT_SUFFIXES:
            raise LayerIncomplete(f"{name} is no file of a layer")
        if (size := path.stat().st_size) != record.size:
            raise LayerIncomplete(f"{name} has {size} bytes instead of {record.size}")
        if sha256_of(path) != record.sha256:
            raise LayerIncomplete(f"{name} was altered: its SHA-256 is not the manifest's")
