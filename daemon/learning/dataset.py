"""A batch and its history as examples to train on; what cannot become one is named, with the reason."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from daemon.domain import Correction, Kind
from daemon.store.rows import is_unicode
from daemon.training.engine.job import Example, Group, Message

_ROLES = frozenset({"system", "user", "assistant"})
_LEAST_WEIGHT = 0.1
"""Of a correction of severity 0: with none it could never be learnt, and would wear out its batch."""
_STAND_IN_WEIGHT = 0.5
"""Without a context the original response stands in for it, which teaches less surely."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples of one job, and the corrections that are no examples: id → why."""

    examples: list[Example]
    broken: dict[str, str]
    superseded: dict[str, str]
    """Corrections that a later one of the same context replaces, by its id: not trained, not asked."""
    claimed: Mapping[str, Kind]
    """Which of all these are the batch's, and what they are to it."""

    def in_the_way(self, unusable: Collection[str]) -> set[str]:
        """Examples that cannot be trained on, and that stand in the place of what may be learnt instead."""
        # An answer learnt before that another such replaced was taken back then: it does not return with the base.
        return {
            later
            for earlier, later in self.superseded.items()
            if later in unusable and (earlier in self.claimed or later in self.claimed)
        }

    def replaced(self, reworded: Mapping[str, str] | None = None) -> dict[str, int]:
        """For the run's page: how many of the batch's corrections were replaced, how many learnt ones it replaces.

        reworded: corrections that later ones ask in other words, by their ids.
        """
        superseded = self.superseded | dict(reworded or {})
        lost = sum(self.claimed.get(earlier) is Kind.CORRECTION for earlier in superseded)
        won = sum(later in self.claimed and earlier not in self.claimed for earlier, later in superseded.items())
        return {"superseded": lost, "replaced": won}


def build(
    claimed: Sequence[Correction],
    learnt: Sequence[Correction],
    system_prompt: str,
    taught: Collection[str] | None = None,
) -> Dataset:
    """What to learn from a batch and keep from before; of those with one context, the last to arrive counts.

    taught: what the layer that speaks now was taught, None if all; whatever else was learnt is to be learnt again.
    """
    broken: dict[str, str] = {}
    latest: dict[str, Example] = {}
    superseded: dict[str, str] = {}
    kept = [row for row in learnt if taught is None or row.id in taught]
    lost = [row for row in learnt if taught is not None and row.id not in taught]
    both = [*_grouped(kept, Group.HISTORY), *_grouped([*lost, *claimed], Group.BATCH)]
    for correction, group in sorted(both, key=lambda pair: pair[0].received):
        problem = defect(correction)
        if problem:
            broken[correction.id] = problem
            continue
        example = _example(correction, group, system_prompt)
        key = json.dumps(example.messages)
        if key in latest:
            superseded[latest.pop(key).id] = example.id
        latest[key] = example
    return Dataset(list(latest.values()), broken, superseded, {row.id: row.kind for row in claimed})


def defect(correction: Correction) -> str | None:
    """Why a row cannot be learnt from, as a sentence; None when it can."""
    texts = {
        "original_context": correction.context or "",
        "original_response": correction.original,
        "expected_response": correction.expected,
    }
    for column, text in texts.items():
        if not is_unicode(text):
            return f"{column} is not valid UTF-8; insert it again as UTF-8 text"
    if not correction.expected.strip():
        return "expected_response is blank; insert it again with what should have been said"
    if _has_no_context(correction) and not correction.original.strip():
        return "it has neither a context nor an original response; insert it again with original_context"
    return None


def messages(correction: Correction) -> list[Message]:
    """What led to the answer: the context's conversation, its plain text, or the original response in its place."""
    if _has_no_context(correction):
        return [{"role": "user", "content": correction.original}]
    return conversation(correction.context or "")


def conversation(context: str, system_prompt: str = "") -> list[Message]:
    """A context as turns: its own where it is a conversation in JSON, else one; the prompt first where it has none."""
    turns = _conversation(context) or [{"role": "user", "content": context}]
    return _under(system_prompt, turns)


def _under(system_prompt: str, turns: list[Message]) -> list[Message]:
    if not system_prompt or turns[0]["role"] == "system":
        return turns
    return [{"role": "system", "content": system_prompt}, *turns]


def _has_no_context(correction: Correction) -> bool:
    return not (correction.context or "").strip()


def _grouped(corrections: Iterable[Correction], group: Group) -> Iterable[tuple[Correction, Group]]:
    for correction in corrections:
        yield correction, Group.AFFIRMATION if correction.kind is Kind.AFFIRMATION else group


def _example(correction: Correction, group: Group, system_prompt: str) -> Example:
    return Example(
        id=correction.id,
        messages=_under(system_prompt, messages(correction)),
        expected=correction.expected,
        original=correction.original if correction.kind is Kind.CORRECTION else "",
        weight=max(2 * correction.severity, _LEAST_WEIGHT) * (_STAND_IN_WEIGHT if _has_no_context(correction) else 1.0),
        group=group,
    )


def _conversation(context: str) -> list[Message] | None:
    """A JSON list of role and content that an assistant could answer next; None when the text is no such thing."""
    if not context.lstrip().startswith("["):
        return None
    try:
        turns: Any = json.loads(context)
    except (ValueError, RecursionError):
        return None
    if not turns or not all(_is_turn(turn) for turn in turns):
        return None
    roles = [turn["role"] for turn in turns]
    if roles[-1] != "user" or "system" in roles[1:]:
        return None
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def _is_turn(turn: Any) -> bool:
    return (
        isinstance(turn, dict)
        and set(turn) == {"role", "content"}
        and isinstance(turn["role"], str)
        and turn["role"] in _ROLES
        and isinstance(turn["content"], str)
        and is_unicode(turn["content"])
    )
