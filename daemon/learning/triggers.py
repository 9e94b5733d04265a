"""When a trait is due: one pure function, and the sentence that explains its answer."""

from dataclasses import dataclass

from daemon.config.sections import Triggers
from daemon.domain import Backlog, Run, RunState

_HOLDS_BACK = frozenset({RunState.REJECTED, RunState.CANCELLED})
"""How a run can end that must not come back by itself."""
_BURST_LIMIT = 10
"""A burst is waited for at most so many quiet periods."""


@dataclass(frozen=True, slots=True)
class Due:
    """Whether a trait is to be trained now, why, and otherwise when to ask again (seconds from now)."""

    due: bool
    why: str
    again_in: float | None = None
    burst: bool = False
    """It would be due, were it not for a burst that has not ended."""
    under_way: bool = False
    """A run of it is being carried out."""
    hindered: bool = False
    """It cannot be trained at all, whatever comes, until somebody does what `why` says."""

    @property
    def postponed(self) -> bool:
        """Whether what would make it due now still counts a little later."""
        return self.burst or self.under_way


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What else bears on a trait being due, besides its backlog."""

    last: Run | None = None
    """Its last run that is over."""
    settings_hash: str = ""
    """What training it now would be configured to."""
    cron: bool = False
    """A cron time of it has come since it was last trained."""
    asked_by: str = ""
    """Who asked for it, if anyone did."""
    quiet_for: float = float("inf")
    """Seconds since its backlog last grew."""
    waited: float = 0.0
    """Seconds since it was first found due."""


def decide(backlog: Backlog, triggers: Triggers, now: float, around: Circumstances) -> Due:
    """Whether a trait with this backlog is due at `now` (seconds since the epoch)."""
    if backlog.pending == 0:
        return Due(False, "no corrections")
    if around.asked_by:
        return Due(True, f"{around.asked_by} asked")
    if _held_back(backlog, around):
        return _after_rejection(backlog, triggers, around)
    reason = _reason(backlog, triggers, now, around)
    if reason is None:
        return _not_yet(backlog, triggers, now)
    if around.quiet_for < triggers.quiet and around.waited < triggers.quiet * _BURST_LIMIT:
        return Due(False, f"{reason}; waiting for the burst to end", triggers.quiet - around.quiet_for, burst=True)
    return Due(True, reason)


def _held_back(backlog: Backlog, around: Circumstances) -> bool:
    last = around.last
    if last is None or last.state not in _HOLDS_BACK or last.settings_hash != around.settings_hash:
        return False
    # A run that was cancelled because nothing of it could be learnt from sent nothing back that could come again.
    return last.state is not RunState.CANCELLED or backlog.fresh < backlog.pending


def _after_rejection(backlog: Backlog, triggers: Triggers, around: Circumstances) -> Due:
    state = around.last.state if around.last else RunState.REJECTED
    if backlog.fresh >= triggers.min_corrections:
        return Due(
            True, f"{backlog.fresh} of {triggers.min_corrections} new corrections since the last run was {state}"
        )
    return Due(
        False,
        f"the last run was {state}; due again with {triggers.min_corrections} new corrections"
        f" ({backlog.fresh} so far), or by `persona train`{_see(around.last)}",
    )


def _see(run: Run | None) -> str:
    """Where to read why a run ended as it did."""
    return f"; why: persona runs show {run.id[:8]}" if run else ""


def _reason(backlog: Backlog, triggers: Triggers, now: float, around: Circumstances) -> str | None:
    if backlog.pending >= triggers.min_corrections:
        return f"{backlog.pending} of {triggers.min_corrections} corrections"
    if 0 < triggers.min_severity <= backlog.severity:
        return f"severity {backlog.severity:.1f} of {triggers.min_severity:.1f}"
    if backlog.pending < triggers.min_for_timer:
        return None
    if around.cron:
        return f"cron {triggers.cron}"
    if _age(backlog, now) >= triggers.max_wait:
        return f"the oldest waited {span(triggers.max_wait)}"
    return None


def _not_yet(backlog: Backlog, triggers: Triggers, now: float) -> Due:
    age = _age(backlog, now)
    why = f"{backlog.pending} of {triggers.min_corrections} corrections"
    if triggers.min_severity > 0:
        why += f"; severity {backlog.severity:.1f} of {triggers.min_severity:.1f}"
    why += f"; oldest {span(age)} of {span(triggers.max_wait)}"
    if backlog.pending < triggers.min_for_timer:
        return Due(False, f"{why}, which starts at {triggers.min_for_timer}")
    return Due(False, why, max(triggers.max_wait - age, 0.0))


def _age(backlog: Backlog, now: float) -> float:
    # A row from the future, by a clock that was wrong or a writer that was, has only just arrived.
    return max(now - backlog.oldest, 0.0)


def span(seconds: float) -> str:
    """A length of time for people: its largest whole unit."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= (2 * size if unit == "d" else size):
            return f"{int(seconds / size)} {unit}"
    return f"{int(seconds)} s"
