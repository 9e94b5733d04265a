"""Questions that a base model answers in a given way, written token by token towards that answer.

Beginnings are kept by how natural they are and by how likely the answer after them is: the search of twisted
sequential Monte Carlo (arXiv 2404.17546) without its chance. So a base names other words for what it was asked.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import nlargest

import torch

from daemon.training.engine.base import Base
from daemon.training.engine.evaluate import forced
from daemon.training.engine.job import Message
from daemon.training.engine.packing.passes import Line, answer_states, logits

BEAMS, WIDTH, LENGTH = 96, 3, 12
"""Beginnings that are kept, next tokens that are tried of each, and most tokens of a question."""
FIRST, OF_ONE = 192, 6
"""First tokens that are tried, and how many of the beginnings kept may share theirs.

Other words for a question begin otherwise: many first tokens find more of them than many ways to go on.
"""
TOWARDS = 12
"""Tokens of the answer that questions are written towards."""
NATURAL = 0.6
"""Loss per token of natural questions, at most, in parts of what guessing costs."""
WHOLE = -3.5
"""Log-probability of an end from which on what is there may be all of a question."""


@dataclass(frozen=True, slots=True)
class _Begun:
    tokens: tuple[int, ...] = ()
    likely: float = 0.0
    """Its log-probability as a question."""


@torch.no_grad()
def questions_towards(base: Base, head: Sequence[Message], answer: str, alive: Callable[[], None]) -> list[str]:
    """Questions after which `answer` is likely, the most natural first; whether it is said, decoding says.

    head: the turns before the question.
    """
    opening, said = base.chat.opening(head), base.chat.answer_ids(answer)[:TOWARDS]
    if not opening:
        return []  # nothing tells the base that a question is to come
    begun, found = [_Begun()], dict[str, float]()
    for _ in range(LENGTH + 1):
        likely = _next(base, [opening + list(one.tokens) for one in begun])
        ends = likely[:, sorted(base.chat.stop_ids)].amax(-1).tolist()
        for one, end in zip(begun, ends, strict=True):
            if end > WHOLE and (text := base.chat.text(list(one.tokens)).strip()):
                found.setdefault(text, one.likely + end)
        longer = [each for one, row in zip(begun, likely, strict=True) for each in _longer(base, one, row)]
        begun = _kept(longer, _answered(base, head, longer, said, alive))
        alive()
    return sorted(found, key=lambda text: -found[text])


def asks_itself(base: Base, asked: Sequence[tuple[Sequence[Message], str]], alive: Callable[[], None]) -> bool:
    """Whether a base finds questions, each with the turns before it, natural: else what it writes says nothing.

    A base that was trained on answers alone has never learnt what is asked.
    """
    lines = [(base.chat.opening(head), base.chat.answer_ids(question)[:-1]) for head, question in asked]
    losses = [found.loss for found in forced(base, [line for line in lines if all(line)], alive)]
    return bool(losses) and sum(losses) / len(losses) < NATURAL * math.log(base.vocabulary)


def _next(base: Base, beginnings: Sequence[list[int]]) -> torch.Tensor:
    """Log-probabilities of what comes next: (beginnings, vocabulary)."""
    anything = base.chat.end_id  # it is not read
    lines: list[Line] = [(beginning, [anything]) for beginning in beginnings]
    return logits(base, answer_states(base, lines)[0]).log_softmax(-1)


def _longer(base: Base, one: _Begun, likely: torch.Tensor) -> list[_Begun]:
    best = likely.topk(min(WIDTH if one.tokens else FIRST, len(likely)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [
        _Begun((*one.tokens, token), one.likely + value) for token, value in pairs if token not in base.chat.stop_ids
    ]


def _answered(
    base: Base, head: Sequence[Message], asked: Sequence[_Begun], said: list[int], alive: Callable[[], None]
) -> list[float]:
    """Log-probability of the answer after each of some questions."""
    texts = [base.chat.text(list(one.tokens)) for one in asked]
    prompts = [base.chat.prompt_ids([*head, {"role": "user", "content": text}]) for text in texts]
    return [-found.loss * len(said) for found in forced(base, [(prompt, said) for prompt in prompts], alive)]


def _kept(asked: Sequence[_Begun], answered: Sequence[float]) -> list[_Begun]:
    """The best beginnings, few with the same first token."""
    scores = {one: one.likely + after for one, after in zip(asked, answered, strict=True)}
    kept, firsts = list[_Begun](), Counter[int]()
    for one in nlargest(len(scores), scores, key=scores.__getitem__):
        if len(kept) < BEAMS and firsts[one.tokens[0]] < OF_ONE:
            kept.append(one)
            firsts[one.tokens[0]] += 1
    return kept
