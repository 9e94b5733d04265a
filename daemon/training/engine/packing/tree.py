"""Sequences as one token tree: every distinct prefix stands there once, and a token sees its ancestors only.

Tokens lie in preorder, so the subtree of a token is one run of them, and `k` is an ancestor of `q` (or `q` itself)
exactly when k <= q < ends[k].
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

Tokens = list[int]
Unit = TypeVar("Unit")

KIN = 32
"""Fewest tokens in common that make it worthwhile to read two sequences together."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Distinct tokens of some sequences; `depths` and `ends` are one per token."""

    tokens: list[int]
    depths: list[int]
    """How many ancestors a token has: its position in every sequence that it is in."""
    ends: list[int]
    """One past the last token of the subtree that a token leads."""
    paths: list[list[int]]
    """Where the tokens of each sequence are, in the order in which the sequences were given."""

    @property
    def runs(self) -> list["Run"]:
        """The tree's runs of tokens that do not branch, each before those below it."""
        starts = [at for at in range(len(self.tokens)) if not self._continues(at)]
        return [Run(at, after) for at, after in pairwise([*starts, len(self.tokens)])]

    def padded(self, step: int) -> "Tree":
        """The same with meaningless tokens behind it that nobody sees, so that their number is a multiple of `step`."""
        more = -len(self.tokens) % step
        end = len(self.tokens) + more
        return Tree(self.tokens + [0] * more, self.depths + list(range(more)), self.ends + [end] * more, self.paths)

    def _continues(self, at: int) -> bool:
        """Whether a token is the only child of the one before it."""
        return at > 0 and self.depths[at] == self.depths[at - 1] + 1 and self.ends[at] == self.ends[at - 1]


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens `first` up to `last`, without a branch between them."""

    first: int
    last: int


def plant(sequences: Sequence[Tokens]) -> Tree:
    """The tree of some sequences, none of them empty; equal ones share all of their tokens."""
    tokens: list[int] = []
    depths: list[int] = []
    ends: list[int] = []
    paths: list[list[int]] = [[] for _ in sequences]
    path: list[int] = []
    before: Tokens = []
    # In this order each sequence shares its longest prefix with the one before it.
    for at in sorted(range(len(sequences)), key=lambda at: sequences[at]):
        sequence = sequences[at]
        common = shared(before, sequence)
        for left in path[common:]:
            ends[left] = len(tokens)
        path = [*path[:common], *range(len(tokens), len(tokens) + len(sequence) - common)]
        tokens.extend(sequence[common:])
        depths.extend(range(common, len(sequence)))
        ends.extend([0] * (len(sequence) - common))
        paths[at], before = path, sequence
    for left in path:
        ends[left] = len(tokens)
    return Tree(tokens, depths, ends, paths)


def kinship(sequences: Sequence[Tokens]) -> list[tuple[int, ...]]:
    """For each sequence, the names of the long runs that it shares with others, in order."""
    tree = plant(sequences)
    long = {run.first for run in tree.runs if run.last - run.first >= KIN}
    owners = Counter(at for path in tree.paths for at in path if at in long)
    return [tuple(at for at in path if owners[at] > 1) for path in tree.paths]


def shared(one: Tokens, other: Tokens) -> int:
    """How many tokens two sequences have in common at their beginnings."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def cut(units: Sequence[Unit], sequences: Callable[[Unit], Sequence[Tokens]], budget: int) -> Iterator[list[Unit]]:
    """Units in groups whose trees have at most `budget` tokens, neighbours together; a unit alone may have more.

    A unit is what must not be parted, such as the preferred and the rejected answer to one prompt.
    """
    group: list[Unit] = []
    size = 0
    last: Tokens = []
    for unit in sorted(units, key=lambda unit: min(sequences(unit))):
        grown, tip = _growth(last, sequences(unit))
        if group and size + grown > budget:
            yield group
            group, size = [], 0
            grown, tip = _growth([], sequences(unit))
        group.append(unit)
        size, last = size + grown, tip
    if group:
        yield group


def _growth(last: Tokens, sequences: Sequence[Tokens]) -> tuple[int, Tokens]:
    """How many tokens a tree grows by at most when sequences follow `last`, and the new last one."""
    grown = 0
    for sequence in sorted(sequences):
        grown += len(sequence) - shared(last, sequence)
        last = sequence
    return grown, last
