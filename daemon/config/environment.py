"""Overrides from the environment: PERSONA_TRIGGERS__MIN_CORRECTIONS=5 is min_corrections of [triggers]."""

from collections.abc import Collection, Mapping
from typing import Any, Final

from daemon.config.problems import Place

PREFIX: Final = "PERSONA_"
BETWEEN: Final = "__"


def overlay(data: dict[str, Any], env: Mapping[str, str], sections: Collection[str]) -> dict[Place, str]:
    """Lay the variables that name a section over `data`; answers which variable each value came from."""
    origins: dict[Place, str] = {}
    for name, value in sorted(env.items()):
        parts = name.removeprefix(PREFIX).split(BETWEEN)
        # PERSONA_CACHE, PERSONA_CONFIG and what others call by this prefix are none of ours.
        if name.startswith(PREFIX) and parts[0].lower() in sections:
            place = _put(data, parts, value)
            origins[place] = name
    return origins


def _put(data: dict[str, Any], parts: list[str], value: str) -> Place:
    """Set one value, making the tables on the way; what is no table is left for validation to complain about."""
    table: Any = data
    place: Place = ()
    for part in parts[:-1]:
        place += (_spelled(part, table),)
        table = table.setdefault(place[-1], {})
        if not isinstance(table, dict):
            return place
    place += (_spelled(parts[-1], table),)
    table[place[-1]] = value
    return place


def _spelled(part: str, table: Mapping[str, Any]) -> str:
    """The name that a part of a variable means: ADA_2 is the persona "Ada-2", if the file has one."""
    lower = part.lower()
    alike = [name for name in table if _folded(name) == lower]
    if part in table or lower in table:
        return part if part in table else lower
    return alike[0] if len(alike) == 1 else lower


def _folded(name: str) -> str:
    # A shell's variable has no room for a hyphen or a dot.
    return name.lower().replace("-", "_").replace(".", "_")
