"""Corrections for people and programs: a table of them, one as the conversation that it is about, one as JSON."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.console import RenderableType
from rich.text import Text

from daemon.cli.showing import ago, cut, moment, short
from daemon.cli.tables import Table, pairs

if TYPE_CHECKING:
    from daemon.domain import Correction

COLOURS: Final = {"pending": "yellow", "claimed": "cyan", "used": "green", "quarantined": "red"}
"""The states of a row, each as it is shown."""
_EXCERPT: Final = 200
"""Characters of a text that a table shows at most."""


def state(row: "Correction", claimed: set[str]) -> str:
    """Where a row stands, given the ids that live runs hold."""
    if row.quarantined is not None:
        return "quarantined"
    return "used" if row.used else "claimed" if row.id in claimed else "pending"


def table(rows: "Sequence[Correction]", claimed: set[str]) -> Table:
    """Corrections as a list: what was asked last, and what should have been said."""
    from daemon.learning.dataset import messages

    columns = ("id", "trait", "state", "when", "asked", "expected", "quarantined because")
    made = Table(*columns, names=["trait"], cut=["asked", "expected"], wrap=["quarantined because"])
    for row in rows:
        where = state(row, claimed)
        expected = ("✓ " if row.kind == "affirmation" else "") + cut(row.expected, _EXCERPT)
        made.add_row(
            short(row.id), str(row.key), Text(where, style=COLOURS[where]), ago(row.received),
            cut(messages(row)[-1]["content"], _EXCERPT), expected, row.quarantined or "",
        )  # fmt: skip
    return made


def page(row: "Correction", claimed: set[str]) -> list[RenderableType]:
    """A correction for people: what it is, then the conversation with both answers; words as the options of `add`."""
    from daemon.learning.dataset import messages

    where = state(row, claimed)
    facts = {
        "id": row.id,
        "trait": row.key,
        "state": Text(where, style=COLOURS[where]),
        "quarantined": row.quarantined,
        "kind": row.kind,
        "severity": row.severity,
        "source": row.source,
        "by": row.author,
        "received": f"{moment(row.received)}, {ago(row.received)}",
    }
    if row.context and row.context.strip():
        turns = [(turn["role"], turn["content"]) for turn in messages(row)]
    else:
        turns = [("context", "none; the original response stands in for it")]
    answers = [("expected", row.expected), ("reason", row.reason)]
    if row.kind == "correction" or row.original != row.expected:
        answers.insert(0, ("original", row.original))
    return [pairs(facts.items()), "", pairs([*turns, *answers])]


def document(row: "Correction", claimed: set[str]) -> dict[str, Any]:
    """A correction as JSON tells of it."""
    from daemon.store.rows import iso

    return {
        "id": row.id,
        "persona_id": row.key.persona,
        "trait_type": row.key.trait,
        "state": state(row, claimed),
        "quarantined_reason": row.quarantined,
        "kind": row.kind,
        "original_context": row.context,
        "original_response": row.original,
        "expected_response": row.expected,
        "correction_reason": row.reason,
        "severity": row.severity,
        "source": row.source,
        "corrected_by": row.author,
        "received_at": iso(row.received),
    }
