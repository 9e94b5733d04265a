"""Anchors: questions that the base model makes up itself, and its own answers, to hold it where nothing is corrected.

A user turn is sampled from the bare chat template, then answered greedily (the idea of Magpie, arXiv 2406.08464).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from daemon.training.engine.base import Base
from daemon.training.engine.batches import Batch, Encoded, batch, chunks
from daemon.training.engine.decode import decode
from daemon.training.engine.loss import answer_logits, divergence

QUESTION, ANSWER = 40, 48
"""Most tokens of a question and of an answer."""
KEPT = 32
"""How many of the likeliest next tokens are kept per position; the rest counts as one outcome."""
NEAR = 0.7
"""Share of common words from which two texts say much the same."""


@dataclass(frozen=True, slots=True, eq=False)
class Anchor:
    """One made-up question with the base's answer; `top` and `ids` are (answer tokens, KEPT)."""

    question: str
    answer: str
    prompt: list[int]
    said: list[int]
    top: torch.Tensor
    """Log-probabilities of the base's likeliest tokens at each position of the answer."""
    ids: torch.Tensor


def make_anchors(base: Base, count: int, alive: Callable[[], None]) -> list[Anchor]:
    """Up to `count` distinct anchors of the bare base model; equal bases make equal anchors."""
    questions = _questions(base, count, alive)
    prompts = [base.chat.prompt_ids([{"role": "user", "content": question}]) for question in questions]
    answers = decode(base, prompts, [ANSWER] * len(prompts), alive)
    anchors: dict[int, Anchor] = {}
    for group in chunks(range(len(prompts)), lambda at: len(prompts[at]) + len(answers[at]), 1024):
        for at, (top, ids) in zip(group, _likeliest(base, [(prompts[at], answers[at]) for at in group]), strict=True):
            text = base.chat.text(answers[at])
            anchors[at] = Anchor(questions[at], text, prompts[at], answers[at], top, ids)
        alive()
    return [anchors[at] for at in range(len(prompts))]


def unrelated(anchors: Sequence[Anchor], examples: Sequence[Encoded]) -> list[Anchor]:
    """The anchors that hold nothing back which an example wants changed."""
    asked = [_words(_question(sequence)) for sequence in examples]
    wrong = [_words(sequence.example.original) for sequence in examples]
    return [
        anchor
        for anchor in anchors
        if not any(_near(_words(anchor.question), words) for words in asked)
        and not any(_near(_words(anchor.answer), words) for words in wrong)
    ]


def anchor_loss(base: Base, anchors: Sequence[Anchor]) -> torch.Tensor:
    """Mean KL of the base to the model as it is now, nats per answer token of the anchors."""
    padded = batch(base, [(anchor.prompt, anchor.said) for anchor in anchors])
    top, ids = _stacked(padded, anchors)
    return divergence(answer_logits(base.model, padded), top, ids, padded.said) / padded.said.sum()


def _questions(base: Base, count: int, alive: Callable[[], None]) -> list[str]:
    opening = base.chat.opening()
    generator = torch.Generator(base.device).manual_seed(0)

    def sample(logits: torch.Tensor) -> torch.Tensor:
        return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]

    said = decode(base, [opening] * count, [QUESTION] * count, alive, sample)
    texts = (base.chat.text(tokens).strip() for tokens in said)
    return sorted({text for text in texts if text})


@torch.no_grad()
def _likeliest(base: Base, pairs: list[tuple[list[int], list[int]]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    padded = batch(base, pairs)
    best = answer_logits(base.model, padded).log_softmax(-1).topk(KEPT, dim=-1)
    return [
        (best.values[row, -len(answer) :].clone(), best.indices[row, -len(answer) :].clone())
        for row, (_, answer) in enumerate(pairs)
    ]


def _stacked(padded: Batch, anchors: Sequence[Anchor]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the anchors keep, aligned at the end like the batch: (rows, kept, KEPT) each."""
    shape = (len(anchors), padded.kept, KEPT)
    top = torch.full(shape, -20.0, device=padded.ids.device)
    ids = torch.zeros(shape, dtype=torch.long, device=padded.ids.device)
    for row, anchor in enumerate(anchors):
        top[row, -len(anchor.said) :] = anchor.top
        ids[row, -len(anchor.said) :] = anchor.ids
    return top, ids


def _question(sequence: Encoded) -> str:
    return next((turn["content"] for turn in reversed(sequence.example.messages) if turn["role"] == "user"), "")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.casefold().split())


def _near(one: frozenset[str], other: frozenset[str]) -> bool:
    return bool(one and other) and len(one & other) >= NEAR * len(one | other)
