"""The gate: candidate against incumbent, a pure function of what both answered; behaviour decides, never the loss.

What must not get worse is judged by non-inferiority where enough was asked: an upper bound of the share lost has to
stay within a margin. Where too little was asked, what was seen lost has to (point rules), and the verdict says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from daemon.config.sections import Gate
from daemon.learning import shape
from daemon.learning.bounds import by_cluster, enough, lost_at_most
from daemon.training.engine.job import Answer, Group, Probe

_MARGIN_GAIN = 0.05
"""A rise of the mean log-likelihood margin, per token, below which nothing measurable was learnt."""
_HAIR = 1e-9
"""So that 11 of 20 are 55 %, whatever 0.55 × 20 is in binary."""
_MISSHAPEN = 0.1
"""Share of answers that may lose their shape."""
_WORDS = {
    Group.CRITICAL: (
        "It breaks {lost} of {known} critical probes that held",
        "{kept} of {probes} critical probes hold",
    ),
    Group.HISTORY: ("It forgot {lost} of {known} answers learnt before", "{kept} of {probes} learnt before are kept"),
    Group.KEPT: (
        "It forgot {lost} of {known} rewordings of what was learnt before",
        "{kept} of {probes} rewordings of it",
    ),
    Group.AFFIRMATION: ("It changed {lost} of {known} affirmed answers", "{kept} of {probes} affirmed answers hold"),
    Group.ANCHOR: (
        "It changed {lost} of {known} answers that no correction is about",
        "{kept} of {probes} answers that no correction is about are as they were",
    ),
}
"""Of what must not get worse, how it is said that it did, and that it did not."""


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
    margin: float | None = None
    """The share that may be lost; None: it is not asked."""
    bound: float | None = None
    """Upper bound of the share lost, where enough was asked for one."""

    @property
    def inferior(self) -> bool:
        """Whether more may be lost than the margin allows."""
        if self.margin is None:
            return False
        if self.bound is not None:
            return self.bound > self.margin
        return self.lost > self.margin * self.probes + _HAIR


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
    margins = {
        Group.HISTORY: gate.max_forgotten,
        Group.KEPT: 1 - gate.min_generality,
        Group.AFFIRMATION: gate.max_affirmations_lost,
        Group.ANCHOR: gate.max_drifted,
        Group.CRITICAL: 0.0,
    }
    scores = {
        group.value: _score([p for p in probes if p.group is group], margins.get(group), gate.confidence)
        for group in Group
    }
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
    if scores[Group.CRITICAL].inferior:
        return _complaint(scores[Group.CRITICAL], _WORDS[Group.CRITICAL][0])
    batch, reworded = scores[Group.BATCH], scores[Group.REWORDING]
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
    if reworded.candidate < _fewest(reworded.probes, gate.min_generality) - _HAIR:
        return (
            f"It answers {reworded.candidate} of {reworded.probes} rewordings of its corrections as expected;"
            f" {gate.min_generality:.0%} are asked for."
        )
    for group, (worse, _) in _WORDS.items():
        if scores[group].inferior:
            return _complaint(scores[group], worse)
    return shape.complaint(probes, _MISSHAPEN)


def _fewest(reworded: int, share: float) -> float:
    """How many rewordings have to be answered: of so few that one alone would decide, one may be missed.

    The base guesses what means the same.
    """
    return min(share * reworded, reworded - 1) if share < 1 else reworded


def _complaint(score: Score, worse: str) -> str:
    said = worse.format(lost=score.lost, known=score.incumbent)
    if not score.margin:
        return f"{said}; none may be lost."
    if score.bound is None:
        return f"{said}; {score.margin:.0%} may be lost."
    return f"{said}: up to {score.bound:.1%} may be lost of all, and {score.margin:.0%} are allowed."


def _praise(scores: Mapping[str, Score]) -> str:
    batch, reworded = scores[Group.BATCH], scores[Group.REWORDING]
    parts = [f"It answers {batch.candidate} of {batch.probes} corrections as expected, {batch.incumbent} before"]
    if reworded.probes:
        parts.append(f"{reworded.candidate} of {reworded.probes} rewordings of them")
    kept = {group: score for group in _WORDS if (score := scores[group]).probes}
    for group, score in kept.items():
        better = _WORDS[group][1].format(kept=score.candidate, probes=score.probes)
        if group is Group.CRITICAL and (never := score.probes - score.incumbent):
            better += f", where {never} did not before"
        parts.append(better + (f", at most {score.bound:.1%} worse" if score.bound is not None else ""))
    if not kept:
        parts.append("nothing else is to be kept")
    pointed = sum(score.probes for score in scores.values() if score.bound is None)
    rules = f" (point rules, {pointed} probe{'' if pointed == 1 else 's'})" if pointed else ""
    return f"{'; '.join(parts)}{rules}."


def _satisfied(batch: Score) -> str:
    if not batch.probes:
        return "Later corrections of the same contexts replace all of the batch."
    return f"The served persona already answers {batch.incumbent} of {batch.probes} as expected."


def _score(probes: Sequence[Probe], margin: float | None, confidence: float) -> Score:
    pairs = [(probe.incumbent, _candidate(probe)) for probe in probes]
    gains = [candidate.margin - incumbent.margin for incumbent, candidate in pairs]
    gone = [incumbent.right and not candidate.right for incumbent, candidate in pairs]
    clusters = by_cluster([(probe.correction, lost) for probe, lost in zip(probes, gone, strict=True)])
    bounded = margin is not None and enough(len(clusters), margin)
    return Score(
        probes=len(pairs),
        incumbent=sum(incumbent.right for incumbent, _ in pairs),
        candidate=sum(candidate.right for _, candidate in pairs),
        lost=sum(gone),
        margin_gain=sum(gains) / len(gains) if gains else 0.0,
        margin=margin,
        bound=round(lost_at_most(clusters, confidence), 4) if bounded else None,
    )


def _candidate(probe: Probe) -> Answer:
    """What the candidate answers; without one, what is served goes on being said."""
    return probe.candidate or probe.incumbent
