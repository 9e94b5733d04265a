"""The kinds of value a key can hold beyond numbers and texts, each refused with a sentence that says what to write."""

import ipaddress
import re
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import durationpy
from pydantic import AfterValidator, BeforeValidator, SecretStr, ValidationInfo

SQLITE: Final = "sqlite:///"
CENTURY: Final = 100 * 365 * 86_400.0
"""Seconds; longer waits overflow the timers of the event loop."""
_DURATION = re.compile(r"(\d+(\.\d+)?(ms|s|m|h|d|w))+")
_PERSONA = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_TRAIT = re.compile(r"[a-z0-9_-][a-z0-9._-]{0,127}")
_HUB_ID = re.compile(r"[^./~\s][^/\s]*/[^/\s]+")
_NOT_LOADED = "makes layers that vLLM, among other servers, cannot load"
_OTHER_BASE = "changes the base model beneath its layer, which all layers of a server share"
_UNSERVED = {"dora": _NOT_LOADED, "vera": _NOT_LOADED, "pissa": _OTHER_BASE, "olora": _OTHER_BASE}
"""Methods of PEFT that people know, and why no layer is made by them."""


def seconds(value: Any) -> float:
    """Seconds from a text such as "1h30m", or from a number of seconds; raises ValueError."""
    length = _parsed(value)
    if not 0 <= length <= CENTURY:
        raise ValueError('is not between 0 and a hundred years; give a duration such as "30s" or "24h"')
    return length


def _parsed(value: Any) -> float:
    text = value.strip() if isinstance(value, str) else value
    try:
        if isinstance(text, str) and _DURATION.fullmatch(text):
            return float(durationpy.from_str(text).total_seconds())
        if not isinstance(text, bool):
            return float(text)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError('is no duration; write it as "30s", "24h" or "1h30m"')


def duration_text(length: float) -> str:
    """Seconds as config.toml writes them: "24h"."""
    return "0s" if length == 0 else str(durationpy.to_str(timedelta(seconds=length)))


def _longer_than_nothing(length: float) -> float:
    if length == 0:
        raise ValueError('is 0; give a longer duration, such as "30s"')
    return length


def _persona_id(text: str) -> str:
    if not _PERSONA.fullmatch(text):
        raise ValueError("is no name; use 1 to 128 of A-Z a-z 0-9 . _ - and no leading dot")
    return text


def _trait_slug(text: str) -> str:
    if not _TRAIT.fullmatch(text):
        raise ValueError("is no trait; use 1 to 128 of a-z 0-9 . _ - and no leading dot")
    return text


def _cron(text: str) -> str:
    if not text:
        return text
    # Only a config that has a cron time pays for importing the scheduler.
    trigger = import_module("apscheduler.triggers.cron").CronTrigger
    try:
        trigger.from_crontab(text, timezone="UTC")
    except ValueError:
        raise ValueError('is no cron time; write minute, hour, day, month and weekday, as in "0 3 * * *"') from None
    return text


def _modules(value: Any) -> str | list[str]:
    names = value.split(",") if isinstance(value, str) and "," in value else value
    if isinstance(names, str) and names.strip():
        return names.strip()
    if isinstance(names, list) and names and all(isinstance(name, str) and name.strip() for name in names):
        return [name.strip() for name in names]
    raise ValueError('is no set of modules; write "all-linear", or a list such as ["q_proj", "v_proj"]')


def _absolute(text: str, info: ValidationInfo) -> str:
    """The path as it is meant: relative to the config file's folder, when a file is being read."""
    if "\0" in text:
        raise ValueError("holds a NUL character; give a path without it")
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise ValueError("starts with a ~ that stands for no home folder; write the whole path") from None
    return str(info.context["folder"] / path) if info.context else str(path)


def _folder(text: str, info: ValidationInfo) -> str:
    if not text.strip():
        raise ValueError('is empty; name a folder, such as "var/layers"')
    return _absolute(text, info)


def _optional_file(text: str, info: ValidationInfo) -> str:
    return _absolute(text, info) if text else ""


def _base_model(text: str, info: ValidationInfo) -> str:
    if not text:
        return text
    folder = _absolute(text, info)
    return text if _HUB_ID.fullmatch(text) and not _is_folder(folder) else folder


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except OSError:
        return False


def _store_url(text: str, info: ValidationInfo) -> str:
    if text.startswith("postgres"):
        raise ValueError("names PostgreSQL, but this version keeps its store in SQLite only; use sqlite:///PATH")
    name = text.removeprefix(SQLITE)
    if not text.startswith(SQLITE) or not name.strip() or name == ":memory:" or "?" in name:
        raise ValueError('names no SQLite file; write "sqlite:///var/persona.db", or four slashes before a whole path')
    return SQLITE + _absolute(name, info)


def _http_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError('is no web address; write it as "http://127.0.0.1:8765"')
    return text.rstrip("/")


def _optional_url(text: str) -> str:
    return _http_url(text) if text else ""


def _host(text: str) -> str:
    if not text or not text.isprintable() or re.search(r"[\s/]", text):
        raise ValueError('is no host; write an address such as "127.0.0.1", or a name')
    return text


def _token(secret: SecretStr) -> SecretStr:
    # It travels in a header, where nothing else arrives as it was sent.
    if not re.fullmatch(r"[!-~]*", secret.get_secret_value()):
        raise ValueError("holds a space or a character outside ASCII; use visible ASCII characters only")
    return secret


def _method(value: Any) -> Any:
    why = _UNSERVED.get(value.lower()) if isinstance(value, str) else None
    if why:
        raise ValueError(f'{why}; give "lora", "rslora" or "qlora"')
    return value


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server at that host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


SECONDS: Final = BeforeValidator(seconds)
"""Marks a key as a duration."""
Duration = Annotated[float, SECONDS]
"""Seconds; 0 is allowed."""
PositiveDuration = Annotated[float, SECONDS, AfterValidator(_longer_than_nothing)]
"""Seconds, more than 0."""
PersonaId = Annotated[str, AfterValidator(_persona_id)]
TraitSlug = Annotated[str, AfterValidator(_trait_slug)]
CronTime = Annotated[str, AfterValidator(_cron)]
Modules = Annotated[str | list[str], BeforeValidator(_modules)]
Folder = Annotated[str, AfterValidator(_folder)]
OptionalFile = Annotated[str, AfterValidator(_optional_file)]
BaseModelName = Annotated[str, AfterValidator(_base_model)]
StoreUrl = Annotated[str, AfterValidator(_store_url)]
OptionalUrl = Annotated[str, AfterValidator(_optional_url)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Host = Annotated[str, AfterValidator(_host)]
Method = Annotated[Literal["lora", "rslora", "qlora"], BeforeValidator(_method)]
Token = Annotated[SecretStr, AfterValidator(_token)]
