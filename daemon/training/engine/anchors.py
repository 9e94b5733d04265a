"""Anchors: questions that the base model makes up itself, and its own answers, to hold it where nothing is corrected.

A user turn is sampled from the bare chat template, then answered greedily (the idea of Magpie, arXiv 2406.08464).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from daemon.training.engine.base import Base
from daemon.training.engine.batches import Encoded
from daemon.training.engine.decode import decode
from daemon.training.engine.objectives import Reference, references
from daemon.training.engine.packing.passes import Line, micro_batches

QUESTION, ANSWER = 40, 48
"""Most tokens of a question and of an answer."""
NEAR = 0.7
"""Share of common words from which two texts say much the same."""


@dataclass(frozen=True, slots=True, eq=False)
class Anchor:
    """One made-up question with the base's answer, and what the base found likely along it."""

    question: str
    answer: str
    reference: Reference


def make_anchors(base: Base, count: int, alive: Callable[[], None]) -> list[Anchor]:
    """Up to `count` distinct anchors of the bare base model; equal bases make equal anchors."""
    questions = _questions(base, count, alive)
    prompts = [base.chat.prompt_ids([{"role": "user", "content": question}]) for question in questions]
    answers = decode(base, prompts, [ANSWER] * len(prompts), alive)
    lines: list[Line] = list(zip(prompts, answers, strict=True))
    known: dict[int, Reference] = {}
    for group in micro_batches(base, range(len(lines)), lambda at: [lines[at]]):
        known.update(zip(group, references(base, [lines[at] for at in group]), strict=True))
        alive()
    return [Anchor(questions[at], base.chat.text(answers[at]), known[at]) for at in range(len(lines))]


def unrelated(anchors: Sequence[Anchor], examples: Sequence[Encoded]) -> list[Anchor]:
    """The anchors that hold nothing back which an example wants changed."""
    asked = {_words(_question(sequence)) for sequence in examples}
    wrong = {_words(sequence.example.original) for sequence in examples}

    def held_back(anchor: Anchor) -> bool:
        question, answer = _words(anchor.question), _words(anchor.answer)
        return any(_near(question, words) for words in asked) or any(_near(answer, words) for words in wrong)

    return [anchor for anchor in anchors if not held_back(anchor)]


def _questions(base: Base, count: int, alive: Callable[[], None]) -> list[str]:
    opening = base.chat.opening()
    if not opening:
        return []  # nothing tells the base that a question is to come
    generator = torch.Generator(base.device).manual_seed(0)

    def sample(logits: torch.Tensor) -> torch.Tensor:
        return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]

    said = decode(base, [opening] * count, [QUESTION] * count, alive, sample)
    texts = (base.chat.text(tokens).strip() for tokens in said)
    return sorted({text for text in texts if text})


def _question(sequence: Encoded) -> str:
    return next((turn["content"] for turn in reversed(sequence.example.messages) if turn["role"] == "user"), "")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.casefold().split())


def _near(one: frozenset[str], other: frozenset[str]) -> bool:
    return bool(one and other) and len(one & other) >= NEAR * len(one | other)
