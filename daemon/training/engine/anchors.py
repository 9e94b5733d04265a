"""Anchors: questions that the base model makes up itself, and its own answers, to hold it where nothing is corrected.

A user turn is sampled from the bare chat template, then answered greedily (the idea of Magpie, arXiv 2406.08464).
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch

from daemon.training.engine.base import Base
from daemon.training.engine.batches import Encoded
from daemon.training.engine.decode import decode
from daemon.training.engine.job import Message
from daemon.training.engine.objectives import Reference, references
from daemon.training.engine.packing.passes import Line, micro_batches

QUESTION, ANSWER = 40, 48
"""Most tokens of a question and of an answer."""
WARM = 2.0
"""Temperature of every other question's first token: what people seldom begin with is to come up, too."""
SURE = 1.0
"""Nats by which each token of an answer leads that a hair's breadth of change does not turn."""
NEAR = 0.7
"""Share of common words from which two texts say much the same."""

Told = tuple[str, list[int]]
"""A question, and the tokens of the base's answer."""


@dataclass(frozen=True, slots=True, eq=False)
class Anchor:
    """One made-up question with the base's answer, and what the base found likely along it."""

    question: str
    answer: str
    reference: Reference
    ended: bool = True
    """Whether the answer came to its end within the room it had."""

    @property
    def sure(self) -> bool:
        """Whether the base would say nothing else: each token of its whole answer leads clearly."""
        best, second = self.reference.top[:, 0], self.reference.top[:, 1]
        return self.ended and float((best - second).min()) >= SURE


@dataclass(frozen=True, slots=True, eq=False)
class MadeUp:
    """What a base has asked itself and answered."""

    anchors: list[Anchor]
    more: list[tuple[str, str]]
    """Further questions and answers: they hold nothing, but tell how else something is asked."""

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All questions with their answers."""
        return [*((anchor.question, anchor.answer) for anchor in self.anchors), *self.more]


def make_up(base: Base, count: int, alive: Callable[[], None], system: str = "", seed: int = 0) -> list[Told]:
    """Up to `count` distinct questions of the base model under a system prompt, with its answers; equal for equals."""
    head = _head(system)
    questions = _questions(base, count, alive, head, seed)
    answers = decode(base, _prompts(base, head, questions), [ANSWER] * len(questions), alive)
    return list(zip(questions, answers, strict=True))


def anchors_of(base: Base, told: Sequence[Told], system: str, alive: Callable[[], None]) -> list[Anchor]:
    """Anchors of questions that the base made up under a system prompt, and of its answers."""
    questions, answers = [question for question, _ in told], [answer for _, answer in told]
    return _held(base, questions, _prompts(base, _head(system), questions), answers, alive)


def _head(system: str) -> list[Message]:
    return [{"role": "system", "content": system}] if system else []


def _prompts(base: Base, head: Sequence[Message], questions: Sequence[str]) -> list[list[int]]:
    return [base.chat.prompt_ids([*head, {"role": "user", "content": question}]) for question in questions]


def anchored(base: Base, told: Sequence[tuple[str, list[int], str]], alive: Callable[[], None]) -> list[Anchor]:
    """Anchors of questions, as text and as prompts, that the base has answered."""
    answers = [base.chat.answer_ids(answer) for _, _, answer in told]
    return _held(base, [question for question, _, _ in told], [prompt for _, prompt, _ in told], answers, alive)


def _held(
    base: Base, questions: list[str], prompts: list[list[int]], answers: list[list[int]], alive: Callable[[], None]
) -> list[Anchor]:
    lines: list[Line] = list(zip(prompts, answers, strict=True))
    known: dict[int, Reference] = {}
    for group in micro_batches(base, range(len(lines)), lambda at: [lines[at]]):
        known.update(zip(group, references(base, [lines[at] for at in group]), strict=True))
        alive()
    return [
        Anchor(questions[at], base.chat.text(answer), known[at], base.chat.ended(answer))
        for at, (_, answer) in enumerate(lines)
    ]


def unrelated(
    anchors: Sequence[Anchor],
    examples: Sequence[Encoded],
    answers: Collection[str] = (),
    to_all: Collection[str] = (),
) -> list[Anchor]:
    """The anchors that hold nothing back which an example wants changed.

    answers: what the base says to the examples' own questions. to_all: what it says to whatever it does not know.
    """
    asked = {_words(sequence.question) for sequence in examples}
    wrong = {_words(sequence.example.original) for sequence in examples}

    def held_back(anchor: Anchor) -> bool:
        question, answer = _words(anchor.question), _words(anchor.answer)
        if any(_near(question, words) for words in asked):
            return True
        if anchor.answer in to_all:
            return False
        return anchor.answer in answers or any(_near(answer, words) for words in wrong)

    return [anchor for anchor in anchors if not held_back(anchor)]


def _questions(base: Base, count: int, alive: Callable[[], None], head: Sequence[Message], seed: int) -> list[str]:
    opening = base.chat.opening(head)
    if not opening:
        return []  # nothing tells the base that a question is to come
    generator = torch.Generator(base.device).manual_seed(seed)

    def sample(logits: torch.Tensor) -> torch.Tensor:
        # What a broken base says is found out where it is trained.
        return torch.multinomial(logits.nan_to_num().softmax(-1), 1, generator=generator)[:, 0]

    def seldom(logits: torch.Tensor) -> torch.Tensor:
        return sample(logits / WARM)

    some = count // 2
    begun = decode(base, [opening] * some, [1] * some, alive, seldom)
    begun += decode(base, [opening] * (count - some), [1] * (count - some), alive, sample)
    rest = decode(base, [opening + one for one in begun], [QUESTION - 1] * count, alive, sample)
    texts = (base.chat.text(one + more).strip() for one, more in zip(begun, rest, strict=True))
    return sorted({text for text in texts if text})


def near(one: str, other: str) -> bool:
    """Whether two texts say much the same, by the words that they share."""
    return _near(_words(one), _words(other))


def _words(text: str) -> frozenset[str]:
    return frozenset(text.casefold().split())


def _near(one: frozenset[str], other: frozenset[str]) -> bool:
    return bool(one and other) and len(one & other) >= NEAR * len(one | other)
