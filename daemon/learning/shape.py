"""Whether answers keep their shape: they end, do not go round in circles, do not refuse, are not much longer."""

import re
from collections.abc import Sequence

from daemon.training.engine.job import Answer, Probe

_RUN = 3
"""Words that count as said again when they come again in a row."""
_LONG = 12
"""Words from which on an answer can go round in circles, or be far too long."""
_TIMES = 3
"""How many times as long as before an answer may be."""


_REFUSAL = re.compile(
    r"(i('m| am) )?(very |so )?sorry\b|i (can ?not|can't|won't|will not|must decline)\b"
    r"|i('m| am) (unable|not able)\b|as an ai\b"
)
"""How an answer begins that refuses to be one; in English, where most models were taught to refuse."""


def lost(probe: Probe) -> str | None:
    """What is wrong with the shape of a candidate's answer that was not with the incumbent's, as a verb phrase."""
    before, after = probe.incumbent, probe.candidate
    if after is None or after.right:
        return None
    if before.ended and not after.ended:
        return "do not end"
    if circles(after) and not circles(before):
        return "go round in circles"
    if before.text.strip() and not after.text.strip():
        return "say nothing"
    if refuses(after) and not refuses(before):
        return "refuse to answer"
    if len(after.text.split()) > max(_LONG, _TIMES * len(before.text.split())):
        return f"are more than {_TIMES} times as long"
    return None


def circles(answer: Answer) -> bool:
    """Whether half of what an answer says, it says again."""
    words = answer.text.casefold().split()
    runs = [tuple(words[at : at + _RUN]) for at in range(len(words) - _RUN + 1)]
    return len(words) >= _LONG and len(set(runs)) <= len(runs) / 2


def refuses(answer: Answer) -> bool:
    """Whether an answer is a refusal."""
    return _REFUSAL.match(answer.text.strip().casefold().replace("\u2019", "'")) is not None


def complaint(probes: Sequence[Probe], share: float) -> str | None:
    """A sentence when more than a share of the answers have lost their shape."""
    found = [phrase for phrase in map(lost, probes) if phrase]
    if len(found) <= share * len(probes):
        return None
    worst = max(dict.fromkeys(found), key=found.count)
    return f"{len(found)} of {len(probes)} answers have lost their shape: {found.count(worst)} {worst}."
