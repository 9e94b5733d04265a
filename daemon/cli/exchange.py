"""Corrections as files: JSON lines or CSV in, JSON lines out."""

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from daemon.cli.asking import opened
from daemon.cli.showing import json_text
from daemon.config.settings import Config
from daemon.errors import PersonaError
from daemon.store import writers
from daemon.store.writers import Row, Written

EXPECTED: Final = (
    "What is expected: one JSON object per line, or a .csv with a header;"
    " persona_id, trait_type, original_response and expected_response are needed, see: persona corrections export"
)


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
        why_not = row if isinstance(row, str) else writers.problem(row)
        if why_not:
            refused[line] = why_not
        elif isinstance(row, dict):
            rows[line] = writers.imported(row)
    return rows, refused


async def write(config: Config, rows: Mapping[int, Row]) -> Written:
    """Insert rows; by line why those did not go in that are not there already; raises StoreError."""
    async with opened(config) as store:
        return await writers.write_new(store.corrections, rows)


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
