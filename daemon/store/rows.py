"""Between rows and values: times, JSON, and the columns that each value is read from."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Float, LargeBinary, Text, cast, func, literal
from sqlalchemy.sql import ColumnElement

from daemon.domain import Correction, Kind, Layer, Purpose, Run, RunState, TraitKey
from daemon.store.tables import TrainingCorrection, table

_UNIX_EPOCH_JULIAN = 2440587.5
_DAY_S = 86_400.0


def iso(seconds: float) -> str:
    """Seconds since the epoch as the store writes times: UTC, ISO 8601, milliseconds."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def seconds(text: str | None) -> float:
    """A time that the daemon wrote, in seconds since the epoch; 0 for none."""
    return datetime.fromisoformat(text).timestamp() if text else 0.0


def epoch(column: Any) -> ColumnElement[float]:
    """A time that anyone wrote, in seconds since the epoch: SQLite reads every form that it let in."""
    return cast((func.julianday(column) - _UNIX_EPOCH_JULIAN) * _DAY_S, Float)


def is_unicode(text: str) -> bool:
    """Whether a text can be written back: what was read of invalid UTF-8, or of half a JSON escape, cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """A text for people and logs: what was no Unicode is escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def bound(text: str) -> Any:
    """A text that was read from the store, to be compared with a column: byte by byte, whatever it is."""
    return text if is_unicode(text) else cast(literal(text.encode("utf-8", "surrogateescape"), LargeBinary), Text)


def correction_columns() -> list[Any]:
    """What `correction` needs of a row."""
    c = table(TrainingCorrection).c
    return [
        c.id,
        c.persona_id,
        c.trait_type,
        c.original_context,
        c.original_response,
        c.expected_response,
        c.correction_reason,
        c.severity,
        c.kind,
        c.source,
        c.corrected_by,
        epoch(c.received_at).label("received"),
        c.is_used_in_training,
        c.quarantined_reason,
        c.is_sensitive,
    ]


def correction(row: Any) -> Correction:
    """One row of `correction_columns`."""
    return Correction(
        id=row.id,
        key=TraitKey(row.persona_id, row.trait_type),
        context=row.original_context,
        original=row.original_response,
        expected=row.expected_response,
        reason=row.correction_reason,
        severity=row.severity,
        kind=Kind(row.kind),
        source=row.source,
        author=row.corrected_by,
        received=row.received or 0.0,
        used=bool(row.is_used_in_training),
        quarantined=row.quarantined_reason,
        sensitive=row.is_sensitive != 0,
    )


def run(row: Any) -> Run:
    """One row of training_runs."""
    return Run(
        id=row.id,
        key=TraitKey(row.persona_id, row.trait_type),
        state=RunState(row.state),
        planned_because=row.planned_because,
        version=row.version,
        attempt=row.attempt,
        fence=row.fence,
        failures=row.failures,
        created=seconds(row.created_at),
        settings_hash=row.settings_hash,
        reason=row.reason,
        not_before=seconds(row.not_before),
        compared=row.compared_revision,
        layer_path=row.layer_path,
        finished=seconds(row.finished_at) if row.finished_at else None,
        evidence=load(row.evidence),
        purpose=Purpose(row.purpose),
        task=load(row.task),
    )


def layer(row: Any) -> Layer:
    """One row of genome_layers."""
    return Layer(
        id=row.id,
        key=TraitKey(row.persona_id, row.trait_type),
        version=row.version,
        state=row.state,
        path=row.path,
        content_hash=row.content_hash,
        base_fingerprint=row.base_fingerprint,
        parent_id=row.parent_id,
        run_id=row.run_id,
        created=seconds(row.created_at),
    )


def dump(values: Mapping[str, Any]) -> str:
    """A mapping as the store keeps it."""
    return json.dumps(values, ensure_ascii=True, separators=(",", ":"))


def load(text: str | None) -> dict[str, Any]:
    """A mapping that the store kept; empty for none."""
    values = json.loads(text) if text else {}
    return values if isinstance(values, dict) else {}
