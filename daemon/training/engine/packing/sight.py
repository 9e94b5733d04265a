"""Who sees whom in a token tree, in tiles, so that attention multiplies few pairs that are hidden."""

from dataclasses import dataclass, field
from itertools import pairwise

import torch

from daemon.training.engine.memory import TILE
from daemon.training.engine.packing.shapes import filled
from daemon.training.engine.packing.tree import Tree

ROWS = TILE
"""Rows of a tile: their scores stay in a processor's cache."""


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """Consecutive tokens, and the keys that any of them sees: the path above the first, and they themselves.

    In preorder whatever of a token's ancestors comes before the tile is an ancestor of the tile's first token.
    """

    here: slice
    keys: list[slice]
    open: int
    """How many keys, from the first on, all of the rows see."""
    hidden: torch.Tensor
    """(rows, keys after these), true where a row does not see a key."""

    @property
    def rows(self) -> int:
        """How many tokens these are."""
        return int(self.here.stop - self.here.start)

    @property
    def columns(self) -> int:
        """How many keys they see."""
        return self.open + self.hidden.shape[1]


@dataclass(slots=True, eq=False)
class Sight:
    """What each token of a tree sees: itself and its ancestors, or the nearest of them."""

    tree: Tree
    device: torch.device
    step: int = 1
    """What the number of keys is made a multiple of, by some that nobody sees."""
    _tiles: dict[int | None, list[Tile]] = field(default_factory=dict)
    _masks: dict[int | None, torch.Tensor] = field(default_factory=dict)
    windows: set[int | None] = field(default_factory=set)
    """Which windows were asked for so far."""
    _ends: torch.Tensor = field(init=False)
    _depths: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._ends = torch.tensor(self.tree.ends, device=self.device)
        self._depths = torch.tensor(self.tree.depths, device=self.device)

    def tiles(self, window: int | None) -> list[Tile]:
        """All tokens; `window` is how many positions of its path a token sees, itself included."""
        self.windows.add(window)
        if window is not None and window > max(self.tree.depths):
            window = None
        if window not in self._tiles:
            tokens = len(self.tree.tokens)
            bounds = ((first, min(first + ROWS, tokens)) for first in range(0, tokens, ROWS))
            self._tiles[window] = [self._tile(first, last, window) for first, last in bounds]
        return self._tiles[window]

    def mask(self, window: int | None) -> torch.Tensor:
        """(tokens, tokens), true where the row's token sees the column's."""
        self.windows.add(window)
        if window not in self._masks:
            tokens = len(self.tree.tokens)
            self._masks[window] = self._seen(0, tokens, torch.arange(tokens, device=self.device), window)
        return self._masks[window]

    def _tile(self, first: int, last: int, window: int | None) -> Tile:
        above = (self._ends[:first] > first).nonzero().flatten()
        if window is not None:
            # The row that is nearest to the root sees what is farthest up.
            above = above[max(0, min(self.tree.depths[first:last]) - window + 1) :]
        keys = filled(
            torch.cat([above, torch.arange(first, last, device=self.device)]), len(self.tree.tokens), self.step
        )
        hidden = ~self._seen(first, last, keys, window)
        closed = hidden.any(0).nonzero().flatten()
        unmasked = int(closed[0]) if len(closed) else len(keys)
        return Tile(slice(first, last), _pieces(keys.tolist()), unmasked, hidden[:, unmasked:])

    def _seen(self, first: int, last: int, keys: torch.Tensor, window: int | None) -> torch.Tensor:
        """(last - first, keys): k is an ancestor of q, or q itself, if k <= q < ends[k]."""
        queries = torch.arange(first, last, device=self.device)[:, None]
        seen = (keys <= queries) & (queries < self._ends[keys])
        return seen if window is None else seen & (self._depths[queries] - self._depths[keys] < window)


def _pieces(tokens: list[int]) -> list[slice]:
    """Tokens in order as runs without gaps: what lies in one piece need not be gathered."""
    starts = [at for at, token in enumerate(tokens) if at == 0 or token != tokens[at - 1] + 1]
    return [slice(tokens[at], tokens[end - 1] + 1) for at, end in pairwise([*starts, len(tokens)])]
