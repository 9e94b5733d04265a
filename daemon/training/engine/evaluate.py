"""What a model says to the examples of a job, and how likely it finds what it should say."""

import unicodedata
from collections.abc import Callable, Sequence

import torch

from daemon.training.engine.base import Base
from daemon.training.engine.batches import Encoded
from daemon.training.engine.decode import decode
from daemon.training.engine.job import Answer
from daemon.training.engine.packing.passes import Line, TokenLosses, micro_batches, token_losses

SPARE = 16
"""Tokens that an answer may be longer than expected before it counts as not ended."""
READABLE = 500
"""Characters of an answer that are kept."""


def probe(base: Base, sequences: Sequence[Encoded], alive: Callable[[], None]) -> list[Answer]:
    """Free-running answers and likelihoods of every example, in order."""
    rooms = [min(len(row.expected) + SPARE, base.context - len(row.prompt)) for row in sequences]
    said = decode(base, [sequence.prompt for sequence in sequences], rooms, alive)
    margins = _margins(base, sequences, alive)
    return [_answer(base, *row) for row in zip(sequences, said, margins, strict=True)]


def same_text(one: str, other: str) -> bool:
    """Whether two answers are equal, white space and Unicode form aside."""
    return _plain(one) == _plain(other)


def compared(row: Encoded) -> list[Line]:
    """The answers whose likelihoods are compared: the expected one and, where there is one, the original."""
    return [(row.prompt, answer) for answer in (row.expected, row.original) if answer]


@torch.no_grad()
def forced(base: Base, lines: Sequence[Line], alive: Callable[[], None]) -> list[tuple[float, float]]:
    """Mean loss and smallest lead per line, its answer being forced; nats."""
    seen: dict[int, tuple[float, float]] = {}
    for group in micro_batches(base, range(len(lines)), lambda at: [lines[at]]):
        tokens = token_losses(base, [lines[at] for at in group])
        seen.update(zip(group, _per_line(tokens, len(group)), strict=True))
        alive()
    return [seen[at] for at in range(len(lines))]


def _per_line(tokens: TokenLosses, count: int) -> list[tuple[float, float]]:
    means = tokens.per_line(tokens.losses, count) / tokens.per_line(torch.ones_like(tokens.losses), count)
    leads = tokens.leads.new_full((count,), torch.inf).scatter_reduce(0, tokens.lines, tokens.leads, "amin")
    return list(zip(means.tolist(), leads.tolist(), strict=True))


def _margins(base: Base, sequences: Sequence[Encoded], alive: Callable[[], None]) -> list[float]:
    """Mean log-likelihood per token of expected less original; an example without original stands on its own."""
    lines = [line for sequence in sequences for line in compared(sequence)]
    losses = (loss for loss, _ in forced(base, lines, alive))
    found = []
    for sequence in sequences:
        expected = next(losses)
        found.append((next(losses) if sequence.original else 0.0) - expected)
    return found


def _answer(base: Base, sequence: Encoded, said: list[int], margin: float) -> Answer:
    ended = said[-1] in base.chat.stop_ids
    text = base.chat.text(said[:-1] if ended else said)
    right = ended and same_text(text, sequence.example.expected)
    match = 1.0 if right else _agreement(said, sequence.expected)
    return Answer(text[:READABLE], right, match, margin, ended)


def _agreement(said: list[int], expected: list[int]) -> float:
    """Share of the expected tokens before the first that was not said."""
    for at, token in enumerate(expected):
        if at >= len(said) or said[at] != token:
            return at / len(expected)
    return 1.0


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())
