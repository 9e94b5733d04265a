"""Corrections as files: JSON lines or CSV in, JSON lines out."""

import csv
import json
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from daemon.cli.asking import opened
from daemon.cli.showing import cut, json_text
from daemon.config.settings import Config
from daemon.errors import PersonaError
from daemon.store.failures import TAKEN
from daemon.store.store import Store

Row = dict[str, Any]
_IGNORED: Final = frozenset({"is_used_in_training", "state"})
"""Columns that an export has, and that are not a writer's to set."""
_COLUMNS: Final = frozenset(
    {
        "id",
        "persona_id",
        "trait_type",
        "original_context",
        "original_response",
        "expected_response",
        "correction_reason",
        "severity",
        "kind",
        "source",
        "is_sensitive",
        "room_id",
        "message_id",
        "corrected_by",
        "corrected_at",
        "received_at",
        "quarantined_reason",
    }
)
_DAEMONS: Final = frozenset({"quarantined_reason"})
"""Columns that say what became of a row."""
_DEFAULTS: Final[Row] = {
    "original_context": None,
    "correction_reason": "",
    "severity": 0.5,
    "kind": "correction",
    "is_sensitive": None,
    "room_id": None,
    "message_id": None,
    "corrected_by": None,
}
"""What the store makes of columns that are left out; times, which are the moment's, say nothing of a row."""
_CLASHES: Final = "there is another row with this id, and rows do not change; leave the id out to write a later one."
EXPECTED: Final = (
    "What is expected: one JSON object per line, or a .csv with a header;"
    " persona_id, trait_type, original_response and expected_response are needed, see: persona corrections export"
)
_AT_ONCE: Final = 500
"""Rows in one transaction, so that other writers get their turn."""


@dataclass(frozen=True)
class Written:
    """What became of rows: how many are new, how many were there already, and by line why the others are not in."""

    written: int
    known: int
    refused: dict[int, str]


def read(file: Path) -> tuple[dict[int, Row], dict[int, str]]:
    """The rows of a file by line, and what is wrong with the lines that are none; raises PersonaError."""
    try:
        # A byte that is no UTF-8 spoils its row, not the file.
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            parsed = list(_csv(lines) if file.suffix.lower() == ".csv" else _json_lines(lines))
    except OSError as error:
        raise PersonaError(f"The file {file} cannot be read: {error.strerror}.") from None
    rows: dict[int, Row] = {}
    refused: dict[int, str] = {}
    for line, row in parsed:
        why_not = row if isinstance(row, str) else problem(row)
        if why_not:
            refused[line] = why_not
        elif isinstance(row, dict):
            rows[line] = _row(row)
    return rows, refused


async def write(config: Config, rows: Mapping[int, Row]) -> Written:
    """Insert rows; by line why those did not go in that are not there already; raises StoreError."""
    lines = list(rows)
    refused: dict[int, str] = {}
    async with opened(config) as store:
        for start in range(0, len(lines), _AT_ONCE):
            some = lines[start : start + _AT_ONCE]
            problems = await store.corrections.insert_each([rows[line] for line in some])
            refused |= {some[position]: why for position, why in problems.items()}
        known = await _known(store, {line: rows[line] for line, why in refused.items() if why == TAKEN})
    clashes = {line: _CLASHES if why == TAKEN else why for line, why in refused.items() if line not in known}
    return Written(len(lines) - len(refused), len(known), clashes)


async def _known(store: Store, rows: Mapping[int, Row]) -> set[int]:
    """The lines of rows that the store has as they are, by their ids and everything that a writer says."""
    lines = list(rows)
    known: set[int] = set()
    for start in range(0, len(lines), _AT_ONCE):
        some = lines[start : start + _AT_ONCE]
        stored = await store.corrections.by_ids([str(rows[line]["id"]) for line in some])
        known |= {line for line in some if _same(rows[line], stored.get(str(rows[line]["id"])))}
    return known


def _same(row: Row, stored: Mapping[str, object] | None) -> bool:
    """Whether a row, with the defaults of what it leaves out, says what a stored one does."""
    if stored is None:
        return False
    said = {**_DEFAULTS, **{name: value for name, value in row.items() if name not in _DAEMONS}}
    return all(_stored(name, value) == stored[name] for name, value in said.items())


def _stored(name: str, value: Any) -> object:
    """A value as its column gives it back."""
    if value is None:
        return None
    try:
        return {"severity": float, "is_sensitive": int}.get(name, str)(value)
    except ValueError:
        return value


async def rows(config: Config, persona: str | None, trait: str | None) -> list[dict[str, object]]:
    """What to export; raises StoreError."""
    async with opened(config) as store:
        return await store.corrections.whole(persona, trait)


def save(file: Path, rows: list[dict[str, object]]) -> None:
    """Write JSON lines to a file; raises PersonaError."""
    try:
        with file.open("w", encoding="utf-8") as out:
            out.writelines(json_text(row) + "\n" for row in rows)
    except OSError as error:
        raise PersonaError(f"The file {file} cannot be written: {error.strerror}.") from None


def _json_lines(lines: Any) -> Iterator[tuple[int, Row | str]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            yield number, "it is no JSON."
            continue
        yield number, row if isinstance(row, dict) else "it is no JSON object."


def _csv(lines: Any) -> Iterator[tuple[int, Row | str]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.DictReader(lines)
    try:
        for row in reader:
            if None in row:
                yield reader.line_num, "it has more cells than the header."
            else:
                # An empty cell leaves the column to its default.
                yield reader.line_num, {name: cell for name, cell in row.items() if cell}
    except csv.Error:
        yield reader.line_num, "it is no CSV; what follows was not read."


def problem(row: Row) -> str | None:
    """What keeps a row from being given to the database at all."""
    unknown = [name for name in row if name not in _COLUMNS | _IGNORED]
    if unknown:
        return f"there is no column {cut(unknown[0], 40)!r}."
    for name, value in row.items():
        if isinstance(value, list | dict) and name != "original_context":
            return f"{name} is no text."
        if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
            return f"{name} is not valid UTF-8."
    if not _is_number(row.get("severity", 0)):
        return "severity is a number from 0 to 1."
    return None


def _is_number(value: Any) -> bool:
    try:
        float(0 if value is None else value)
    except ValueError:
        return False
    return True


def _row(row: Row) -> Row:
    """A row as the table takes it: null is the default, a conversation is JSON text, where it came from is told."""
    given = {name: value for name, value in row.items() if value is not None and name not in _IGNORED}
    context = given.get("original_context")
    if isinstance(context, list | dict):
        given["original_context"] = json.dumps(context, ensure_ascii=False)
    return {"id": uuid.uuid4().hex, "source": "import", **given}
