"""Corrections made up from a seed: words `w17` of a vocabulary in which a word is a token, whatever it says.

Standard library only, so that the two sides, their tests and the table read the same rows.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random

from scripts.benchmarks.training.settings import BATCH, EPOCHS, SEED

Words = tuple[int, ...]
END = 1
"""The token that ends an answer."""
VOCABULARY = 16384
"""Words are drawn below this, so that every model can read them; 0 and 1 are no words."""
SHORT = (16, 40)
"""Tokens of a question and of an answer, both ends included."""
HISTORY = (200, 800)
"""Tokens of a room's history."""


@dataclass(frozen=True, slots=True)
class Correction:
    """One question below what came before it, the answer to learn and, in a pair, the one to leave."""

    system: Words
    history: Words
    question: Words
    answer: Words
    rejected: Words = ()

    @property
    def prompt(self) -> list[int]:
        """Tokens up to where the answer begins."""
        return [*self.system, *self.history, *self.question]

    @property
    def answers(self) -> list[list[int]]:
        """The answer's tokens with the end, and after them the rejected answer's if there is one."""
        return [[*words, END] for words in (self.answer, self.rejected) if words]

    @property
    def sequences(self) -> list[list[int]]:
        """The token sequences that a training reads."""
        return [self.prompt + answer for answer in self.answers]


@dataclass(frozen=True, slots=True)
class Workload:
    """Corrections by trait; each trait is a training of its own."""

    name: str
    says: str
    traits: tuple[tuple[Correction, ...], ...]
    objective: str = "sft"


def text(words: Iterable[int]) -> str:
    """Words as the models' tokenizer reads them."""
    return " ".join(f"w{word}" for word in words)


def workload(name: str, seed: int = SEED) -> Workload:
    """A workload by its letter, the same for the same seed; raises KeyError."""
    return _MAKERS[name](seed)


def persona(random: Random, system: int, count: int) -> tuple[Correction, ...]:
    """Corrections of one persona, whose system prompt has so many tokens."""
    return tuple(_corrections(random, _words(random, system), (), count))


def steps(examples: int) -> int:
    """Optimizer steps of a whole training."""
    return EPOCHS * math.ceil(examples / BATCH)


def nominal(corrections: Iterable[Correction]) -> int:
    """Tokens that a training without any sharing computes: all sequences, once per epoch."""
    return EPOCHS * sum(len(sequence) for correction in corrections for sequence in correction.sequences)


def distinct(sequences: Iterable[Sequence[int]]) -> int:
    """Tokens of the prefix tree of some sequences: those at the beginning that are equal count once."""
    ordered = sorted(map(list, sequences))
    # In this order each sequence shares its longest prefix with the one before it.
    shared = (_shared(one, other) for one, other in pairwise(ordered))
    return sum(map(len, ordered)) - sum(shared)


def _shared(one: list[int], other: list[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))


def _a(seed: int) -> Workload:
    return Workload("A", "one persona, system prompt 512, 32 corrections", (persona(Random(f"A {seed}"), 512, 32),))


def _b(seed: int) -> Workload:
    return Workload("B", "one persona, system prompt 32, 64 corrections", (persona(Random(f"B {seed}"), 32, 64),))


def _c(seed: int) -> Workload:
    random = Random(f"C {seed}")
    system = _words(random, 64)
    rooms = [_words(random, random.randint(*HISTORY)) for _ in range(8)]
    corrections = tuple(correction for room in rooms for correction in _corrections(random, system, room, 8))
    return Workload("C", "8 rooms with histories of 200-800, 8 corrections each, system prompt 64", (corrections,))


def _d(seed: int) -> Workload:
    random = Random(f"D {seed}")
    (corrections,) = _a(seed).traits
    pairs = tuple(replace(correction, rejected=_short(random)) for correction in corrections)
    return Workload("D", "A as preference pairs, DPO with an SFT term", (pairs,), "dpo")


def _e(seed: int) -> Workload:
    random = Random(f"E {seed}")
    systems = [_words(random, 512) for _ in range(8)]
    traits = tuple(tuple(_corrections(random, system, (), 10)) for system in systems for _ in range(5))
    return Workload("E", "40 traits of 8 personas, system prompt 512, 10 corrections each, from cold", traits)


_MAKERS = {"A": _a, "B": _b, "C": _c, "D": _d, "E": _e}
NAMES = "".join(_MAKERS)


def _corrections(random: Random, system: Words, history: Words, count: int) -> Iterator[Correction]:
    return (Correction(system, history, _short(random), _short(random)) for _ in range(count))


def _short(random: Random) -> Words:
    return _words(random, random.randint(*SHORT))


def _words(random: Random, count: int) -> Words:
    return tuple(random.randrange(2, VOCABULARY) for _ in range(count))
