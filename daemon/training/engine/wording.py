"""Questions put together anew: what a question is about, and the same asked of it in the words of another; text only.

A question is about what its answer repeats of it: "Where does Mira live?" – "Mira lives in Brevik." Its words without
that are a frame, which asks the same of whatever is put there.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import log

_WORD = re.compile(r"\w+")
_RARE, _FEW = 0.03, 3
"""Up to which share of all questions, or which number, those that a word occurs in tell what they are about."""
_LONGEST = 6
"""Most words of what a question is about."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A question with its answer, and what it is about: characters `start` to `end`; nothing, if they are equal."""

    question: str
    answer: str
    start: int = 0
    end: int = 0
    said: frozenset[str] = field(init=False)
    """The words of the answer that are not what the question is about."""

    def __post_init__(self) -> None:
        # Each is compared with all others.
        object.__setattr__(self, "said", frozenset(words(self.answer)) - frozenset(words(self.about)))

    @property
    def about(self) -> str:
        """What the question is about; empty when its answer does not tell."""
        return self.question[self.start : self.end]

    def of(self, about: str) -> str:
        """The same question about something else."""
        return self.question[: self.start] + about + self.question[self.end :]


def words(text: str) -> list[str]:
    """The words of a text, without case."""
    return [found.group().casefold() for found in _WORD.finditer(text)]


def read(pairs: Iterable[tuple[str, str]]) -> list[Asked]:
    """Questions and answers, and what each is about."""
    known = list(pairs)
    commonness = Counter(word for question, _ in known for word in set(words(question)))
    usual = max(_FEW, _RARE * len(known))
    rarity = {word: log(usual / count) for word, count in commonness.items()}
    return [_read(question, answer, rarity) for question, answer in known]


def alike(one: Asked, other: Asked) -> float:
    """How alike two answers are, 0 to 1, what their questions are about aside."""
    return len(one.said & other.said) / max(1, len(one.said | other.said))


def plainer(question: str) -> list[str]:
    """The same question as people type it in haste: without its last stop, and in small letters."""
    bare = question.rstrip(" .?!\u3002\uff1f\uff01")
    return [text for text in dict.fromkeys((bare, bare.casefold())) if text and text != question]


def nonsense(known: Sequence[Asked], count: int) -> list[str]:
    """Up to `count` questions about nothing that there is: names are spelt backwards."""
    frames = [one for one in known if one.about]
    return list(dict.fromkeys(one.of(one.about[::-1]) for one in frames[:: max(1, len(frames) // count)]))[:count]


def _read(question: str, answer: str, rarity: Mapping[str, float]) -> Asked:
    """The rarest run of words that the answer repeats; common words in it count against it."""
    found = list(_WORD.finditer(question))
    told = words(answer)
    best, most = (0, 0), 0.0
    for first in range(len(found)):
        for last in range(first, min(first + _LONGEST, len(found))):
            run = [match.group().casefold() for match in found[first : last + 1]]
            if not _within(run, told):
                break
            rare = sum(rarity[word] for word in run)
            if rare > most:
                best, most = (found[first].start(), found[last].end()), rare
    return Asked(question, answer, *best)


def _within(run: Sequence[str], told: Sequence[str]) -> bool:
    return any(list(told[at : at + len(run)]) == list(run) for at in range(len(told) - len(run) + 1))
