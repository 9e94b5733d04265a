"""What a model says to the examples of a job, and how likely it finds what it should say."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from daemon.training.engine.base import Base
from daemon.training.engine.batches import Encoded
from daemon.training.engine.decode import decode
from daemon.training.engine.job import Answer, Example, Rule
from daemon.training.engine.packing.passes import Line, micro_batches, token_losses
from daemon.training.engine.rules import holds

SPARE = 16
"""Tokens that an answer may be longer than expected before it counts as not ended."""
WHOLE = 256
"""Tokens of an answer that is searched for a text."""
TIE = 0.25
"""Nats by which half precision may turn the order of two tokens; which of them is said, decoding says."""
READABLE = 500
"""Characters of an answer that are kept."""


def probe(base: Base, sequences: Sequence[Encoded], alive: Callable[[], None]) -> list[Answer]:
    """Free-running answers and likelihoods of every example, in order."""
    seen = iter(forced(base, [line for row in sequences for line in compared(row)], alive))
    expected, margins = list[Forced](), list[float]()
    for row in sequences:
        expected.append(next(seen))
        # An example without an original answer stands on its own.
        margins.append((next(seen).loss if row.original else 0.0) - expected[-1].loss)
    agreed = [each.agreed if row.example.rule is Rule.IS else 0 for row, each in zip(sequences, expected, strict=True)]
    said = _free_running(base, sequences, agreed, alive)
    return [_answer(base, *row) for row in zip(sequences, said, margins, strict=True)]


def compared(row: Encoded) -> list[Line]:
    """The answers whose likelihoods are compared: the expected one and, where there is one, the original."""
    return [(row.prompt, answer) for answer in (row.expected, row.original) if answer]


@dataclass(frozen=True, slots=True)
class Forced:
    """What a model makes of an answer that is put into its mouth."""

    loss: float
    """Mean negative log-likelihood per token, nats."""
    lead: float
    """Nats by which its least certain token leads; greedy decoding says the answer if it is > 0."""
    agreed: int
    """How many of its tokens greedy decoding says for sure before it may depart from them."""


@torch.no_grad()
def forced(base: Base, lines: Sequence[Line], alive: Callable[[], None]) -> list[Forced]:
    """What a model makes of each line's answer."""
    seen: dict[int, Forced] = {}
    for group in micro_batches(base, range(len(lines)), lambda at: [lines[at]]):
        tokens = token_losses(base, [lines[at] for at in group])
        lengths = [len(lines[at][1]) for at in group]
        losses, leads = (torch.split(each, lengths) for each in (tokens.losses, tokens.leads))
        seen.update((at, _forced(base, *row)) for at, *row in zip(group, losses, leads, strict=True))
        alive()
    return [seen[at] for at in range(len(lines))]


def _forced(base: Base, losses: torch.Tensor, leads: torch.Tensor) -> Forced:
    tie = TIE if base.model.dtype.itemsize < 4 else 0.0
    agreed = (leads > tie).long().cumprod(0).sum()
    return Forced(float(losses.mean()), float(leads.min()), int(agreed))


def _free_running(
    base: Base, rows: Sequence[Encoded], agreed: Sequence[int], alive: Callable[[], None]
) -> list[list[int]]:
    """What greedy decoding says: as much as it agrees with what is expected, and from there on whatever it says.

    The expected answer is the draft of speculative decoding (arXiv 2211.17192), which changes no greedy answer.
    """
    said = [_turn(base, row.expected[:count]) for row, count in zip(rows, agreed, strict=True)]
    departed = [(row, answer) for row, answer in zip(rows, said, strict=True) if not base.chat.ended(answer)]
    prompts = [row.prompt + answer for row, answer in departed]
    rooms = [min(answer_room(row), base.context - len(row.prompt)) - len(answer) for row, answer in departed]
    for (_, answer), rest in zip(departed, decode(base, prompts, rooms, alive), strict=True):
        answer.extend(rest)
    return said


def answer_room(row: Encoded) -> int:
    """Most tokens that an answer is given."""
    return len(row.expected) + SPARE if row.example.rule is Rule.IS else WHOLE


def _turn(base: Base, tokens: list[int]) -> list[int]:
    """Tokens up to the first that ends a turn, it included."""
    ends = (at for at, token in enumerate(tokens, 1) if token in base.chat.stop_ids)
    return tokens[: next(ends, len(tokens))]


def _answer(base: Base, sequence: Encoded, said: list[int], margin: float) -> Answer:
    ended = base.chat.ended(said)
    text = base.chat.text(said[:-1] if ended else said)
    right = _right(sequence.example, text, ended)
    as_told = sequence.example.rule is Rule.IS
    match = float(right) if right or not as_told else _agreement(said, sequence.expected)
    return Answer(text[:READABLE], right, match, margin, ended)


def _right(example: Example, text: str, ended: bool) -> bool:
    """Whether an answer is what is asked of it."""
    return holds(example.rule, example.expected, text) and (ended or example.rule is not Rule.IS)


def _agreement(said: list[int], expected: list[int]) -> float:
    """Share of the expected tokens before the first that was not said."""
    for at, token in enumerate(expected):
        if at >= len(said) or said[at] != token:
            return at / len(expected)
    return 1.0
