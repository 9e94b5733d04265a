"""What pydantic finds wrong, in words that follow the name of a value: it speaks to programmers, we to people."""

import re
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

_KINDS: Final = {
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "finite": "a number",
    "bool": "true or false",
    "list": "a list",
    "model": "an object",
    "dict": "an object",
    "datetime": "a time",
    "timezone": "a time with its zone",
}


def first_problem(error: ValidationError) -> str:
    """The first thing a validation found wrong, with the place where it stands."""
    problem = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    limits = problem.get("ctx", {})
    if problem["type"] == "json_invalid":
        return _no_json(str(limits.get("error", "")))
    return f"{place or 'its content'} {complaint(problem['type'], limits)}"


def complaint(kind: str, limits: Mapping[str, Any]) -> str:
    """What is wrong with a value, by pydantic's name for it."""
    match kind:
        case "missing":
            return "is missing"
        case "greater_than_equal":
            return f"must be at least {limits['ge']}"
        case "less_than_equal":
            return f"must be at most {limits['le']}"
        case "less_than":
            return f"must be less than {limits['lt']}"
        case "literal_error":
            return f"must be {limits.get('expected')}"
        case "too_short" | "string_too_short":
            return "must not be empty"
        case "too_long":
            return f"must have at most {limits.get('max_length')} entries"
        case "string_pattern_mismatch":
            return "is not written as it must be"
        case "value_error":
            return str(limits["error"])
    expected = _KINDS.get(kind.split("_")[0])
    return f"must be {expected}" if expected else "is not what it must be"


def _no_json(said: str) -> str:
    found = re.search(r"line (\d+) column (\d+)", said)
    return f"it is no JSON at line {found[1]}, column {found[2]}" if found else "it is no JSON"
