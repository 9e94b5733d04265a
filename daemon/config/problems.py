"""What is wrong with a config, as sentences: where, what, and what to do; no value of a secret is ever in one."""

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError

Place = tuple[str, ...]
"""The way to a key from the top, as in ("triggers", "min_corrections")."""

_EXPECTED: Final = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a number that is not infinite",
    "bool": "true or false",
    "string": "a text in quotes",
}
_BOUNDS: Final = {
    "greater_than_equal": ("is too small; give {} or more", "ge"),
    "greater_than": ("is too small; give more than {}", "gt"),
    "less_than_equal": ("is too large; give {} or less", "le"),
    "less_than": ("is too large; give less than {}", "lt"),
}
_NO_TABLE: Final = ("model_type", "dict_type")
_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
# What may hold a password is not repeated in a sentence.
_SECRET: Final = ("token", "url")


def sentences(error: ValidationError, model: type[BaseModel], file: str, origins: Mapping[Place, str]) -> list[str]:
    """One sentence per problem; `origins` names the variable that a value came from, where it was not the file."""
    found = [_sentence(problem, model, file, origins) for problem in error.errors(include_url=False)]
    # A variable or a path may hold bytes that no terminal takes.
    readable = [text.encode("utf-8", "replace").decode() for text in found]
    return [text if text.endswith("?") else f"{text}." for text in readable]


def dotted(place: Sequence[str]) -> str:
    """A place as TOML writes it: personas."a.b".triggers."""
    return ".".join(part if _BARE.fullmatch(part) else json.dumps(part, ensure_ascii=False) for part in place)


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word that was probably meant."""
    return next(iter(difflib.get_close_matches(word.lower(), known, n=1)), None)


def _sentence(problem: Any, model: type[BaseModel], file: str, origins: Mapping[Place, str]) -> str:
    place = tuple(str(part) for part in problem["loc"] if part != "[key]")
    source = f"environment {origins[place]}" if place in origins else file
    if problem["type"] == "extra_forbidden":
        return f"{source}: {dotted(place)} {_unknown(place, model)}"
    bare = problem["type"] in _NO_TABLE or problem["loc"][-1] == "[key]"
    shown = "" if bare else _shown(place, problem["input"])
    return f"{source}: {dotted(place)}{shown} {_complaint(problem, place)}"


def _complaint(problem: Any, place: Place) -> str:
    """What is wrong with a value whose key is known, in words that follow the key."""
    kind, context = problem["type"], problem.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind in _BOUNDS:
        phrase, bound = _BOUNDS[kind]
        return phrase.format(f"{context[bound]:.10g}")
    if kind == "literal_error":
        return f"is not known; give {context['expected'].replace(chr(39), chr(34))}"
    if kind in _NO_TABLE:
        return f"is no table; give its keys below [{dotted(place)}]"
    return f"does not fit; give {_EXPECTED.get(kind.split('_')[0], 'a value like the default')}"


def _shown(place: Place, value: Any) -> str:
    """The refused value, where it is short and no secret."""
    if place[-1] in _SECRET or not isinstance(value, str | int | float):
        return ""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else str(value)
    return f" = {text}" if len(text) <= 60 else ""


def _unknown(place: Place, model: type[BaseModel]) -> str:
    """Why a key is not known where it stands, and which one is."""
    known, home = _keys(place[:-1], model), _home(place, model)
    close = nearest(place[-1], known)
    if home == () and place[0] == "personas":
        return f"cannot differ here, [{place[-1]}] holds for all; what can is {_and(known)}"
    if home is not None:
        return (
            f"belongs elsewhere; write it below [{dotted(home)}]" if home else f"belongs elsewhere; write [{place[-1]}]"
        )
    return f"is not known; did you mean {close}?" if close else f"is not known; the keys here are {_and(known)}"


def _home(place: Place, model: type[BaseModel]) -> Place | None:
    """The nearest table, from where a key stands outwards, that does know it."""
    key = place[-1]
    for depth in reversed(range(len(place))):
        here = place[:depth]
        known = _keys(here, model)
        if key in known:
            return here
        section = next((name for name in known if key in _keys((*here, name), model)), None)
        if section:
            return (*here, section)
    return None


def _keys(place: Place, model: type[BaseModel]) -> list[str]:
    """The keys that may stand below a place; of a table of names, none."""
    kind: Any = model
    for part in place:
        # A table of names, such as [personas], holds one kind of section.
        kind = kind.model_fields[part].annotation if _is_section(kind) else get_args(kind)[-1]
    return list(kind.model_fields) if _is_section(kind) else []


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _and(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + f" and {words[-1]}" if len(words) > 1 else "".join(words)
