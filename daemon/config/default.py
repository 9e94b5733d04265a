"""The text of a new config.toml: every key with its sentence and its default, straight from the sections."""

import json
import textwrap
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from daemon.config.sections import Sections
from daemon.config.values import SECONDS, duration_text

_HEADER: Final = """\
# The persona daemon's settings. Every key stands here with its default; a key that is left out keeps it.
#
# Any key can be overridden from the environment: PERSONA_TRIGGERS__MIN_CORRECTIONS=5.
# Durations are written "30s", "24h" or "1h30m". Relative paths are relative to this file.
# [store], [layers] and [serve] are read at start; all else takes effect when this file is saved.
"""
_EXAMPLES: Final = """\
# The servers that personas answer from; with none, it is the one at [serve].
#
# [runtimes.main]
# kind = "embedded"
# url = "http://127.0.0.1:8765"
# token = ""  # empty: that of [serve]

# What one persona does differently: base_model, system_prompt, and any key of [triggers], [training] and [gate].
# A persona that only appears in the store gets the values above.
#
# [personas.ada]
# base_model = "models/ada"
# system_prompt = "You are Ada, a patient programmer."
#
# [personas.ada.triggers]
# max_wait = "1h"
#
# What one trait of it does differently, in the same way:
#
# [personas.ada.traits.typescript-expert.triggers]
# min_corrections = 25
"""


def render_default(values: Mapping[str, Any] | None = None) -> str:
    """A whole config.toml; `values` replaces defaults by dotted key, as in {"defaults.base_model": "models/small"}."""
    given = dict(values or {})
    tables = [
        _section(name, field.annotation, given)
        for name, field in Sections.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    ]
    if given:
        raise KeyError(f"config.toml has no key {next(iter(given))}")
    return "\n".join([_HEADER, *tables, _EXAMPLES])


def _section(name: str, model: type[BaseModel], given: dict[str, Any]) -> str:
    """One table; takes the values that it uses out of `given`."""
    lines = [f"# {model.__doc__}", f"[{name}]"]
    for key, field in model.model_fields.items():
        lines += textwrap.wrap(field.description or "", 117, initial_indent="# ", subsequent_indent="# ")
        lines.append(f"{key} = {_toml(given.pop(f'{name}.{key}', field.default), field)}")
    return "\n".join(lines) + "\n"


def _toml(value: Any, field: FieldInfo) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if SECONDS in field.metadata and isinstance(value, float | int):
        value = duration_text(value)
    if isinstance(value, float):
        return repr(value)
    # JSON's texts, lists and truth values are TOML's, but for one character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
