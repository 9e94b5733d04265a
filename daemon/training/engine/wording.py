"""Questions put together anew: what a question is about, and the same asked of it in the words of another; text only.

A question is about what its answer repeats of it: "Where does Mira live?" – "Mira lives in Brevik." Its words without
that are a frame, which asks the same of whatever is put there.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from zlib import crc32

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
    """Questions and answers, and what each is about.

    It is what is asked in the same words of others, and in other words of it; else the rarest words that the answer
    repeats.
    """
    known = list(pairs)
    commonness = Counter(word for question, _ in known for word in set(words(question)))
    usual = max(_FEW, _RARE * len(known))
    rarity = {word: log(usual / count) for word, count in commonness.items()}
    repeated = [_repeated(question, answer) for question, answer in known]
    frames, fillers = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for runs in repeated:
        for run in runs:
            frames[run.text].add(run.frame)
            fillers[run.frame].add(run.text)

    def borne_out(run: _Run) -> tuple[int, int]:
        ways, others = len(frames[run.text]), len(fillers[run.frame])
        return min(ways, others), ways * others

    best = [max(runs, key=borne_out, default=None) for runs in repeated]
    sure = [run if run and borne_out(run)[0] > 1 else None for run in best]
    subjects = {run.text for run in sure if run}

    def rare(run: _Run) -> tuple[bool, float]:
        return run.text in subjects, sum(rarity[word] for word in words(run.text))

    found = []
    for (question, answer), runs, one in zip(known, repeated, sure, strict=True):
        about = one or max((run for run in runs if rare(run) > (False, 0.0)), key=rare, default=None)
        found.append(Asked(question, answer, about.start, about.end) if about else Asked(question, answer))
    return found


def lone(known: Sequence[Asked]) -> list[bool]:
    """Of each question, whether nothing else bears out what it seems to be about.

    "Is it sure?" – "It is sure." would be about "sure": but the same is asked of nothing else, and of it nothing else.
    """
    subjects, answers = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for one in known:
        subjects[one.of("")].add(one.about)
        answers[one.about].add(one.answer)
    return [len(subjects[one.of("")]) == 1 and len(answers[one.about]) == 1 for one in known]


def alike(one: Asked, other: Asked) -> float:
    """How alike two answers are, 0 to 1, what their questions are about aside."""
    return len(one.said & other.said) / max(1, len(one.said | other.said))


def lot(one: str, other: str) -> int:
    """A number that is drawn for two texts, the same for the same: an order by lot that others do not change."""
    return crc32(f"{one}\n{other}".encode())


def plainer(question: str) -> list[str]:
    """The same question as people type it in haste: without its last stop, and in small letters."""
    bare = question.rstrip(" .?!\u3002\uff1f\uff01")
    return [text for text in dict.fromkeys((bare, bare.casefold())) if text and text != question]


def namesakes(about: str, others: Mapping[str, frozenset[str]], common: Mapping[str, int]) -> list[str]:
    """Those of others that share a word with what a question is about, the rarest first: "Ada Hall" of "Ada Moor".

    others: each with its words.
    """
    own = frozenset(words(about))
    shared = {other: own & theirs for other, theirs in others.items()}
    near = [other for other in shared if shared[other] and shared[other] != own]
    return sorted(near, key=lambda other: min(common[word] for word in shared[other]))


def nonsense(known: Sequence[Asked], count: int) -> list[str]:
    """Up to `count` questions about nothing that there is: names are spelt backwards."""
    frames = [one for one in known if one.about]
    return list(dict.fromkeys(one.of(one.about[::-1]) for one in frames[:: max(1, len(frames) // count)]))[:count]


@dataclass(frozen=True, slots=True)
class _Run:
    """Some words of a question in a row that its answer repeats, without case, and the question without them."""

    start: int
    end: int
    text: str
    frame: str


def _repeated(question: str, answer: str) -> list[_Run]:
    found, told, runs = list(_WORD.finditer(question)), words(answer), []
    for first in range(len(found)):
        for last in range(first, min(first + _LONGEST, len(found))):
            if not _within([match.group().casefold() for match in found[first : last + 1]], told):
                break
            start, end = found[first].start(), found[last].end()
            frame = f"{question[:start]}\0{question[end:]}".casefold()
            runs.append(_Run(start, end, question[start:end].casefold(), frame))
    return runs


def _within(run: Sequence[str], told: Sequence[str]) -> bool:
    return any(list(told[at : at + len(run)]) == list(run) for at in range(len(told) - len(run) + 1))
