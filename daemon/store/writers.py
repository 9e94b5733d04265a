"""What programs write into training_corrections: what keeps a row out of it, and whether it is in it already."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from daemon.domain import Kind
from daemon.store.corrections import Corrections
from daemon.store.failures import TAKEN
from daemon.store.rows import is_unicode
from daemon.store.tables import TrainingCorrection

Row = dict[str, Any]
_IGNORED: Final = frozenset({"is_used_in_training", "state"})
"""What the program tells of a row, and that is not a writer's to set."""
_COLUMNS: Final = TrainingCorrection.model_fields.keys() - _IGNORED
_LATER: Final = frozenset({"quarantined_reason"})
"""What says what became of a row since it was written."""
DEFAULTS: Final[Row] = {
    "original_context": None,
    "correction_reason": "",
    "severity": 0.5,
    "kind": Kind.CORRECTION,
    "is_sensitive": None,
    "room_id": None,
    "message_id": None,
    "corrected_by": None,
}
"""What the schema makes of columns that are left out; times, which are the moment's, say nothing of a row."""
_CLASHES: Final = "there is another row with this id, and rows do not change; leave the id out to write a later one."
_FILES: Final = uuid.uuid5(uuid.NAMESPACE_URL, "persona-daemon:import")
_AT_ONCE: Final = 500
"""Rows in one transaction, so that other writers get their turn."""


@dataclass(frozen=True)
class Written:
    """What became of rows: how many are new, how many were there already, and by line why the others are not in."""

    written: int
    known: int
    refused: dict[int, str]


def problem(row: Row) -> str | None:
    """What keeps a row from being given to the database at all."""
    unknown = [name for name in row if name not in _COLUMNS | _IGNORED]
    if unknown:
        return f"there is no column {unknown[0][:40]!r}."
    for name, value in row.items():
        if isinstance(value, list | dict) and name != "original_context":
            return f"{name} is no text."
        if isinstance(value, str) and not is_unicode(value):
            return f"{name} is not valid UTF-8."
    if not _is_number(row.get("severity", 0)):
        return "severity is a number from 0 to 1."
    return None


def imported(row: Row) -> Row:
    """A row as the table takes it: null is the default, a conversation is JSON text, where it came from is told."""
    given = {name: value for name, value in row.items() if value is not None and name not in _IGNORED}
    context = given.get("original_context")
    if isinstance(context, list | dict):
        given["original_context"] = json.dumps(context, ensure_ascii=False)
    told = json.dumps(given, sort_keys=True, default=str)
    # The same row has the same id, so that a file that is imported twice is there once.
    return {"id": uuid.uuid5(_FILES, told).hex, "source": "import", **given}


async def write_new(corrections: Corrections, rows: Mapping[int, Row]) -> Written:
    """Insert rows, each by its line, that are not there already."""
    lines = list(rows)
    refused: dict[int, str] = {}
    for start in range(0, len(lines), _AT_ONCE):
        some = lines[start : start + _AT_ONCE]
        problems = await corrections.insert_each([rows[line] for line in some])
        refused |= {some[position]: why for position, why in problems.items()}
    known = await _known(corrections, {line: rows[line] for line, why in refused.items() if why == TAKEN})
    clashes = {line: _CLASHES if why == TAKEN else why for line, why in refused.items() if line not in known}
    return Written(len(lines) - len(refused), len(known), clashes)


async def _known(corrections: Corrections, rows: Mapping[int, Row]) -> set[int]:
    """The lines of rows that the store has as they are, by their ids and everything that a writer says."""
    stored = await corrections.by_ids([str(row["id"]) for row in rows.values()])
    return {line for line, row in rows.items() if _same(row, stored.get(str(row["id"])))}


def _same(row: Row, stored: Mapping[str, object] | None) -> bool:
    """Whether a row, with the defaults of what it leaves out, says what a stored one does."""
    if stored is None:
        return False
    said = {**DEFAULTS, **{name: value for name, value in row.items() if name not in _LATER}}
    return all(_stored(name, value) == stored[name] for name, value in said.items())


def _stored(name: str, value: Any) -> object:
    """A value as its column gives it back."""
    if value is None:
        return None
    try:
        return {"severity": float, "is_sensitive": int}.get(name, str)(value)
    except (ValueError, OverflowError):
        return value


def _is_number(value: Any) -> bool:
    try:
        float(0 if value is None else value)
    except (ValueError, OverflowError):
        return False
    return True
