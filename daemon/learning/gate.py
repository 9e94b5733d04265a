"""The gate: candidate against incumbent, a pure function of what both answered; behaviour decides, never the loss."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from daemon.config.sections import Gate
from daemon.training.engine.job import Answer, Group, Probe

_MARGIN_GAIN = 0.05
"""A rise of the mean log-likelihood margin, per token, below which nothing measurable was learnt."""
_HAIR = 1e-9
"""So that 11 of 20 are 55 %, whatever 0.55 × 20 is in binary."""
_RAMBLING = 0.1
"""Share of answers, beyond the incumbent's, that may fail to end."""


class Decision(StrEnum):
    """What becomes of a candidate."""

    PROMOTE = "promote"
    """It answers the batch, and what was known before."""
    REJECT = "reject"
    """It does not, or it breaks something."""
    SATISFIED = "satisfied"
    """There is no candidate, because the incumbent answers the batch already."""


@dataclass(frozen=True, slots=True)
class Score:
    """How many probes of one group each side answers as expected; `lost` is what only the incumbent does."""

    probes: int
    incumbent: int
    candidate: int
    lost: int
    margin_gain: float
    """Mean rise of the likelihood margin of the expected answer over the original one, per token."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's word, its reason in one sentence, and the scores behind it, by group."""

    decision: Decision
    reason: str
    scores: Mapping[str, Score]

    def evidence(self, probes: Sequence[Probe], metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Everything that `persona runs show` tells of a run."""
        return {
            "decision": self.decision,
            "reason": self.reason,
            "scores": {group: asdict(score) for group, score in self.scores.items()},
            "metrics": dict(metrics),
            "probes": [asdict(probe) for probe in probes],
        }


def judge(probes: Sequence[Probe], gate: Gate, *, trained: bool) -> Verdict:
    """Compare what the candidate answers with what the incumbent does; without a candidate, `trained` is false."""
    scores = {group.value: _score([p for p in probes if p.group is group]) for group in Group}
    batch = scores[Group.BATCH]
    if not trained:
        return Verdict(Decision.SATISFIED, _satisfied(batch), scores)
    objection = _objection(scores, probes, gate)
    if objection and gate.enabled:
        return Verdict(Decision.REJECT, objection, scores)
    return Verdict(Decision.PROMOTE, objection_waived(objection) or _praise(scores), scores)


def objection_waived(objection: str | None) -> str | None:
    """How a verdict reads that config overruled."""
    return f"The gate is disabled; it would have said: {objection}" if objection else None


def _objection(scores: Mapping[str, Score], probes: Sequence[Probe], gate: Gate) -> str | None:
    """Why a candidate may not be served, or None; the first reason in order of weight."""
    batch, history, kept = (scores[group] for group in (Group.BATCH, Group.HISTORY, Group.AFFIRMATION))
    # A margin that is no number is no gain.
    if batch.candidate <= batch.incumbent and not batch.margin_gain >= _MARGIN_GAIN:
        return f"It learned nothing: {batch.candidate} of {batch.probes} answered as expected, as before."
    if batch.probes and batch.candidate < gate.min_efficacy * batch.probes - _HAIR:
        return (
            f"It answers {batch.candidate} of {batch.probes} corrections as expected;"
            f" {gate.min_efficacy:.0%} are asked for."
        )
    if batch.candidate < batch.incumbent:
        return (
            f"It answers {batch.candidate} of {batch.probes} corrections as expected, the incumbent {batch.incumbent}."
        )
    if history.lost > gate.max_forgotten * history.probes + _HAIR:
        return (
            f"It forgot {history.lost} of {history.incumbent} answers learnt before;"
            f" {gate.max_forgotten:.0%} may be lost."
        )
    if kept.lost > gate.max_affirmations_lost * kept.probes + _HAIR:
        return f"It changed {kept.lost} of {kept.probes} affirmed answers."
    return _degeneration(probes)


def _degeneration(probes: Sequence[Probe]) -> str | None:
    """Answers that no longer end, more of them than before."""
    before = sum(not probe.incumbent.ended for probe in probes)
    after = sum(not _candidate(probe).ended for probe in probes)
    if after - before > _RAMBLING * len(probes):
        return f"{after} of {len(probes)} answers do not end, {before} before."
    return None


def _praise(scores: Mapping[str, Score]) -> str:
    batch, history, kept = (scores[group] for group in (Group.BATCH, Group.HISTORY, Group.AFFIRMATION))
    parts = [f"It answers {batch.candidate} of {batch.probes} corrections as expected, {batch.incumbent} before"]
    if history.probes:
        parts.append(f"{history.candidate} of {history.probes} learnt before are kept")
    if kept.probes:
        parts.append(f"{kept.candidate} of {kept.probes} affirmed answers hold")
    if not history.probes and not kept.probes:
        parts.append("nothing else is to be kept")
    total = sum(score.probes for score in scores.values())
    return f"{'; '.join(parts)} (point rules, {total} probe{'' if total == 1 else 's'})."


def _satisfied(batch: Score) -> str:
    if not batch.probes:
        return "Later corrections of the same contexts replace all of the batch."
    return f"The served persona already answers {batch.incumbent} of {batch.probes} as expected."


def _score(probes: Sequence[Probe]) -> Score:
    pairs = [(probe.incumbent, _candidate(probe)) for probe in probes]
    gains = [candidate.margin - incumbent.margin for incumbent, candidate in pairs]
    return Score(
        probes=len(pairs),
        incumbent=sum(incumbent.right for incumbent, _ in pairs),
        candidate=sum(candidate.right for _, candidate in pairs),
        lost=sum(incumbent.right and not candidate.right for incumbent, candidate in pairs),
        margin_gain=sum(gains) / len(gains) if gains else 0.0,
    )


def _candidate(probe: Probe) -> Answer:
    """What the candidate answers; without one, what is served goes on being said."""
    return probe.candidate or probe.incumbent
