"""What several rooms have to say to the log in the same words."""

from collections.abc import Sequence

import structlog

from daemon.domain import Run

_log = structlog.get_logger()


def planned(run: Run) -> None:
    """Say that a run is planned, and why."""
    names = {"persona": run.key.persona, "trait": run.key.trait, "run": run.id, "version": run.version}
    _log.info("run.planned", **names, reason=run.planned_because)


def set_aside(log: structlog.stdlib.BoundLogger, ids: Sequence[str], reason: str) -> None:
    """Say which corrections are quarantined, and why; nothing where none is."""
    if ids:
        log.warning("corrections.quarantined", corrections=len(ids), ids=ids, reason=reason)
