"""Which run is carried on with next, and how long one that failed waits for its next attempt."""

import random
from collections.abc import Callable, Sequence

from daemon.domain import Run, RunState

_FIRST_RETRY_S = 15.0
_LAST_RETRY_S = 3_600.0
_PASSED_OVER_S = 900.0
"""How long runs of the loaded base may go before an older one of another."""


def next_run(
    runs: Sequence[Run], base_of: Callable[[Run], str], loaded: str, now: float
) -> tuple[Run | None, float | None]:
    """The run to carry on with, else how long until one may be tried again, in seconds; `loaded` is a base model."""
    waiting = [run for run in runs if run.state in (RunState.PLANNED, RunState.PROMOTING)]
    ready = [run for run in waiting if not ready_in(run, now)]
    if not ready:
        return None, min((ready_in(run, now) for run in waiting), default=None)
    # Runs that share the loaded base follow each other, but not for ever while one of another base waits.
    patient = now - min(run.created for run in ready) < _PASSED_OVER_S
    return min(ready, key=lambda run: (run.state is not RunState.PROMOTING, patient and base_of(run) != loaded)), None


def ready_in(run: Run, now: float) -> float:
    """Seconds until a run may be tried; a wait longer than any we set comes of a clock that jumped, and is over."""
    wait = max(run.not_before - now, 0.0)
    return wait if wait <= _LAST_RETRY_S else 0.0


def backoff(failures: int) -> float:
    """Seconds until the next attempt: doubling, bounded, with jitter, so that runs that failed together part."""
    ceiling: float = min(_FIRST_RETRY_S * 2.0**failures, _LAST_RETRY_S)
    return ceiling * random.uniform(0.5, 1.0)
