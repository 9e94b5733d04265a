"""config.toml as the program sees it: found, read, overlaid by the environment, checked, merged per trait."""

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from pydantic import PrivateAttr, ValidationError

from daemon.config.environment import overlay
from daemon.config.problems import sentences
from daemon.config.section import Section
from daemon.config.sections import Gate, Judge, Persona, Sections, Training, Trait, Triggers
from daemon.errors import ConfigInvalid

SYSTEM_CONFIG: Final = Path("/etc/persona-daemon/config.toml")
S = TypeVar("S", bound=Section)
Stamp = tuple[int, int, int] | None
"""What tells one state of a file from another; None when it is not there."""
RESTART: Final = ("store", "layers", "serve")
"""Sections that are read once, at start."""
_RESULT: Final = (
    "policy",
    "rank",
    "alpha",
    "target_modules",
    "epochs",
    "learning_rate",
    "batch_size",
    "max_steps",
    "seed",
    "method",
    "objective",
    "beta",
    "anchors",
)
"""Keys of [training] that decide what a layer becomes; the others only decide how it gets there."""
_LATER: Final = ("method", "objective", "beta", "anchors")
"""Those of them that older programs did not know, so that their runs' hashes say nothing of a default."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """What holds for one persona, or one trait of it."""

    base_model: str
    system_prompt: str
    triggers: Triggers
    training: Training
    gate: Gate
    judge: Judge

    @property
    def settings_hash(self) -> str:
        """Sixteen hex digits that change when a batch could turn into another layer, or be judged otherwise."""
        training = self.training.model_dump(include=set(_RESULT))
        for key in _LATER:
            if training[key] == Training.model_fields[key].default:
                del training[key]
        facts: dict[str, object] = {
            "base_model": self.base_model,
            "system_prompt": self.system_prompt,
            "training": training,
            # Who is to blame for a rejection changes no verdict.
            "gate": self.gate.model_dump(exclude={"suspects"}),
        }
        if self.gate.critical:
            facts["critical"] = _content_of(self.gate.critical)
        if self.judge.url:
            facts["judge"] = self.judge.model_dump(include={"url", "model", "paraphrases"})
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _content_of(file: str) -> str | None:
    """A hash of what a file holds; None where it cannot be read, as whoever needs it says."""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    except OSError:
        return None


class Config(Sections):
    """One config file, complete: every key has its value, every relative path is absolute."""

    _source: Path = PrivateAttr(default=Path("config.toml"))
    _stamp: Stamp = PrivateAttr(default=None)

    def __eq__(self, other: object) -> bool:
        # The same settings, wherever and whenever they were read.
        return isinstance(other, Config) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]

    @property
    def source(self) -> Path:
        """The absolute path of the file."""
        return self._source

    @property
    def stamp(self) -> Stamp:
        """The state of the file that was read."""
        return self._stamp

    @classmethod
    def load(cls, path: Path, env: Mapping[str, str] | None = None) -> Self:
        """Read a file and lay the environment over it; raises ConfigInvalid with one sentence per problem."""
        # First, so that what is saved from now on is found to be newer.
        stamp = stamp_of(path)
        data = _read(path)
        origins = overlay(data, os.environ if env is None else env, cls.model_fields)
        for name in cls.model_fields:
            # So that defaults are looked at in the light of this file's folder, too.
            data.setdefault(name, {})
        source = path.absolute()
        try:
            config = cls.model_validate(data, context={"folder": source.parent})
        except ValidationError as error:
            # The original is dropped: a traceback must not show the values that it holds.
            raise ConfigInvalid("\n".join(sentences(error, cls, str(path), origins))) from None
        config._source, config._stamp = source, stamp
        return config

    def persona(self, persona: str, trait: str | None = None) -> Resolved:
        """The defaults, overlaid by what the file says about the persona, then about the trait."""
        own = self.personas.get(persona) or Persona()
        special = own.traits.get(trait or "") or Trait()
        return Resolved(
            base_model=own.base_model or self.defaults.base_model,
            system_prompt=_chosen(own, self.defaults).system_prompt,
            triggers=_merged(self.triggers, own.triggers, special.triggers),
            training=_merged(self.training, own.training, special.training),
            gate=_merged(self.gate, own.gate, special.gate),
            judge=self.judge,
        )


def _chosen(own: Persona, defaults: Any) -> Any:
    # An empty prompt that is written down means: no prompt.
    return own if "system_prompt" in own.model_fields_set else defaults


def _merged(base: S, *overrides: S) -> S:
    """A section overlaid by the keys that its overrides state; each was validated on its own."""
    for override in overrides:
        base = base.model_copy(update={key: getattr(override, key) for key in override.model_fields_set})
    return base


def find_config(argument: Path | None, env: Mapping[str, str] | None = None) -> Path:
    """The file to read: the argument, PERSONA_CONFIG, ./config.toml or the system's; raises ConfigInvalid."""
    named = (os.environ if env is None else env).get("PERSONA_CONFIG")
    if argument is not None or named:
        return argument or Path(named or "")
    for path in (Path("config.toml"), SYSTEM_CONFIG):
        if _may_be(path):
            return path
    raise ConfigInvalid(
        f"There is no config.toml here and no {SYSTEM_CONFIG}; run `persona init`, or name a file with --config."
    )


def _may_be(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        # A folder that this user may not enter: reading the file will say so.
        return True


def restart_needed(old: Config, new: Config) -> list[str]:
    """The dotted keys that differ and are read only at start."""
    return [
        f"{section}.{key}"
        for section in RESTART
        for key in type(getattr(old, section)).model_fields
        if getattr(getattr(old, section), key) != getattr(getattr(new, section), key)
    ]


def stamp_of(path: Path) -> Stamp:
    """The state that a file is in now."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read(path: Path) -> dict[str, Any]:
    """The file as TOML tables; raises ConfigInvalid."""
    try:
        # Some editors begin a file with a byte order mark.
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigInvalid(f"{path}: {_unreadable(error)}.") from None
    except UnicodeDecodeError as error:
        raise ConfigInvalid(f"{path}: byte {error.start + 1} is not UTF-8; save the file as UTF-8.") from None
    except RecursionError:
        raise ConfigInvalid(f"{path}: values are nested too deeply; write them flat.") from None
    except ValueError as error:
        # Not only TOMLDecodeError: a number of thousands of digits is refused by Python itself.
        raise ConfigInvalid(f"{path}{_syntax(str(error))}; correct it there.") from None


def _unreadable(error: OSError) -> str:
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return "there is no such file; run `persona init` to write one, or name another with --config"
        case IsADirectoryError():
            return "this is a folder; name the file in it with --config"
        case PermissionError():
            return "this user may not read it; change its owner or its mode"
    return f"it cannot be read ({error.strerror or error}); check the disk, or name another with --config"


def _syntax(message: str) -> str:
    """The parser's words in our order: line, column, what."""
    found = re.fullmatch(r"(.*?) \(at (?:line (\d+), column (\d+)|end of document)\)", message, re.DOTALL)
    if not found:
        return ": not valid TOML: a number has too many digits"
    said = re.sub(r"\('(.*?)',?\)", lambda key: key[1].replace("', '", "."), found[1])
    what = f"not valid TOML: {said[:1].lower()}{said[1:]}"
    return f", line {found[2]}, column {found[3]}: {what}" if found[2] else f", at its end: {what}"
