"""Who sees whom in a token tree, cut so that attention multiplies hardly a pair that is hidden."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import torch

from daemon.training.engine.packing.tree import Tree

BLOCK = 128
"""Most tokens of a block: what lies in it is multiplied pair by pair, and then masked."""
ROWS = 256
"""Most rows of a group: their scores then stay in a processor's cache."""
CALL = 1024
"""Pairs that are multiplied in the time that one more call takes."""

Span = tuple[int, int]
"""Tokens from the first up to the second."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Consecutive tokens with the same tokens above them; of each other they see those in their own block."""

    first: int
    last: int
    above: slice | torch.Tensor
    width: int
    """How many tokens are above."""
    blocks: list[Span]
    hidden: torch.Tensor
    """(rows, columns), true where a row does not see one of the last columns of (above, own block)."""

    @property
    def here(self) -> slice:
        """The rows themselves."""
        return slice(self.first, self.last)

    @property
    def columns(self) -> int:
        """How many scores a row has: one for each token above, and as many as the longest block is long."""
        return self.width + max(last - first for first, last in self.blocks)


@dataclass(slots=True, eq=False)
class Sight:
    """What each token of a tree sees: itself and its ancestors, or the nearest of them."""

    tree: Tree
    device: torch.device
    _rows: dict[int | None, list[Rows]] = field(default_factory=dict)
    _ends: torch.Tensor = field(init=False)
    _depths: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._ends, self._depths = torch.tensor(self.tree.ends), torch.tensor(self.tree.depths)

    def rows(self, window: int | None) -> list[Rows]:
        """All tokens; `window` is how many positions of its path a token sees, itself included."""
        if window is not None and window > max(self.tree.depths):
            window = None
        if window not in self._rows:
            self._rows[window] = list(self._grouped(window))
        return self._rows[window]

    def mask(self, window: int | None) -> torch.Tensor:
        """(tokens, tokens), true where the row's token sees the column's."""
        return self._seen(0, len(self.tree.tokens), torch.arange(len(self.tree.tokens)), window).to(self.device)

    def _grouped(self, window: int | None) -> Iterator[Rows]:
        together: list[_Block] = []
        for block in sorted(_blocks(self.tree), key=lambda block: block.first):
            wide = bool(together) and block.last - together[0].first > ROWS
            if together and (wide or block.path != together[0].path or block.first != together[-1].last):
                yield self._together(together, window)
                together = []
            together.append(block)
        yield self._together(together, window)

    def _together(self, blocks: list["_Block"], window: int | None) -> Rows:
        first, last = blocks[0].first, blocks[-1].last
        nearest = 0 if window is None else max(0, self.tree.depths[first] - window + 1)
        above = torch.cat([torch.arange(*span) for span in blocks[0].path] or [torch.arange(0)])[nearest:]
        own = max(block.last - block.first for block in blocks)
        hidden = torch.ones(last - first, own, dtype=torch.bool)
        for block in blocks:
            inside = torch.arange(block.first, block.last)
            seen = self._seen(block.first, block.last, inside, window)
            hidden[block.first - first : block.last - first, : len(inside)] = ~seen
        if window is not None:
            hidden = torch.cat([~self._seen(first, last, above, window), hidden], dim=1)
        spans = [(block.first, block.last) for block in blocks]
        return Rows(first, last, self._compact(above), len(above), spans, hidden.to(self.device))

    def _compact(self, above: torch.Tensor) -> slice | torch.Tensor:
        """A slice where the tokens lie in one piece, so that nobody has to gather them."""
        if not len(above):
            return slice(0, 0)
        first, last = int(above[0]), int(above[-1]) + 1
        return slice(first, last) if last - first == len(above) else above.to(self.device)

    def _seen(self, first: int, last: int, keys: torch.Tensor, window: int | None) -> torch.Tensor:
        """(last - first, keys): k is an ancestor of q, or q itself, if k <= q < ends[k]."""
        queries = torch.arange(first, last)[:, None]
        seen = (keys <= queries) & (queries < self._ends[keys])
        return seen if window is None else seen & (self._depths[queries] - self._depths[keys] < window)


@dataclass(frozen=True, slots=True)
class _Block:
    """Tokens that see each other pair by pair, as far as they are ancestors, and everything on the path above."""

    first: int
    last: int
    path: tuple[Span, ...]


def _blocks(tree: Tree) -> Iterator[_Block]:
    """The whole tree in blocks: small subtrees as they are, long runs in pieces, each seeing those before it."""
    ends_of_runs = {run.first: run.last for run in tree.runs}
    waiting: list[tuple[int, int, tuple[Span, ...]]] = [(0, len(tree.tokens), ())]
    while waiting:
        at, end, path = waiting.pop()
        small: _Block | None = None
        while at < end:
            below = tree.ends[at]
            if below - at <= BLOCK:
                small, done = _joined(small, at, below, path)
                if done:
                    yield done
            else:
                last, longer = ends_of_runs[at], path
                for piece in _pieces(at, last):
                    yield _Block(*piece, longer)
                    longer = (*longer, piece)
                waiting.append((last, below, longer))
            at = below
        if small:
            yield small


def _joined(small: _Block | None, first: int, last: int, path: tuple[Span, ...]) -> tuple[_Block, _Block | None]:
    """One more small subtree: in one block with its neighbour where that costs less than a call; and what is done."""
    if small and small.last == first and (small.last - small.first) * (last - first) <= CALL:
        return _Block(small.first, last, path), None
    return _Block(first, last, path), small


def _pieces(first: int, last: int) -> Iterator[Span]:
    """A run in pieces of about equal length, none longer than a block."""
    count = -(-(last - first) // BLOCK)
    bounds = [first + (last - first) * at // count for at in range(count + 1)] if count else []
    yield from pairwise(bounds)
