"""Who sees whom in a token tree, cut into tiles so that attention multiplies few pairs that are hidden."""

import math
from dataclasses import dataclass, field

import torch

from daemon.training.engine.packing.tree import Tree

ROWS = 128
"""Most rows of a tile: their scores then stay in a processor's cache."""
STEP = 64
"""Long runs are cut into pieces of about so many tokens, at whose bounds a tile may begin."""
TILE = 8192
"""Pairs of one head that are multiplied in the time that one more tile takes."""


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """Consecutive tokens, and the keys that any of them sees: the path above the first, and they themselves.

    In preorder whatever of a token's ancestors comes before the tile is an ancestor of the tile's first token.
    """

    here: slice
    keys: slice | torch.Tensor
    open: int
    """How many keys, from the first on, all of the rows see."""
    hidden: torch.Tensor
    """(rows, keys after these), true where a row does not see a key."""

    @property
    def rows(self) -> int:
        """How many tokens these are."""
        return int(self.here.stop - self.here.start)


@dataclass(slots=True, eq=False)
class Sight:
    """What each token of a tree sees: itself and its ancestors, or the nearest of them."""

    tree: Tree
    device: torch.device
    _tiles: dict[int | None, list[Tile]] = field(default_factory=dict)
    _ends: torch.Tensor = field(init=False)
    _depths: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._ends, self._depths = torch.tensor(self.tree.ends), torch.tensor(self.tree.depths)

    def tiles(self, window: int | None) -> list[Tile]:
        """All tokens; `window` is how many positions of its path a token sees, itself included."""
        if window is not None and window > max(self.tree.depths):
            window = None
        if window not in self._tiles:
            bounds = _bounds(self.tree, window)
            self._tiles[window] = [self._tile(first, last, window) for first, last in bounds]
        return self._tiles[window]

    def mask(self, window: int | None) -> torch.Tensor:
        """(tokens, tokens), true where the row's token sees the column's."""
        return self._seen(0, len(self.tree.tokens), torch.arange(len(self.tree.tokens)), window).to(self.device)

    def _tile(self, first: int, last: int, window: int | None) -> Tile:
        above = (self._ends[:first] > first).nonzero().flatten()
        if window is not None:
            # The row that is nearest to the root sees what is farthest up.
            above = above[max(0, min(self.tree.depths[first:last]) - window + 1) :]
        keys = torch.cat([above, torch.arange(first, last)])
        hidden = ~self._seen(first, last, keys, window)
        closed = hidden.any(0).nonzero().flatten()
        unmasked = int(closed[0]) if len(closed) else len(keys)
        return Tile(slice(first, last), self._compact(keys), unmasked, hidden[:, unmasked:].to(self.device))

    def _compact(self, keys: torch.Tensor) -> slice | torch.Tensor:
        """A slice where the tokens lie in one piece, so that nobody has to gather them."""
        first, last = int(keys[0]), int(keys[-1]) + 1
        return slice(first, last) if last - first == len(keys) else keys.to(self.device)

    def _seen(self, first: int, last: int, keys: torch.Tensor, window: int | None) -> torch.Tensor:
        """(last - first, keys): k is an ancestor of q, or q itself, if k <= q < ends[k]."""
        queries = torch.arange(first, last)[:, None]
        seen = (keys <= queries) & (queries < self._ends[keys])
        return seen if window is None else seen & (self._depths[queries] - self._depths[keys] < window)


def _bounds(tree: Tree, window: int | None) -> list[tuple[int, int]]:
    """Where to cut so that the pairs multiplied, and the tiles themselves, cost least."""
    places = [at for run in tree.runs for at in _pieces(run.first, run.last)] + [len(tree.tokens)]
    above = [min(tree.depths[at], window or math.inf) for at in places[:-1]]
    # From the end: the cost of all from a place on, and where the tile that begins there ends.
    cost, after = [0.0] * len(places), [0] * len(places)
    for at in reversed(range(len(places) - 1)):
        cost[at] = math.inf
        for end in range(at + 1, len(places)):
            rows = places[end] - places[at]
            if rows > ROWS and end > at + 1:
                break
            whole = rows * (above[at] + rows) + TILE + cost[end]
            if whole < cost[at]:
                cost[at], after[at] = whole, end
    found, at = [], 0
    while at < len(places) - 1:
        found.append((places[at], places[after[at]]))
        at = after[at]
    return found


def _pieces(first: int, last: int) -> list[int]:
    """Where the pieces of a run begin, of about equal length, none longer than a step."""
    count = -(-(last - first) // STEP)
    return [first + (last - first) * at // count for at in range(count)]
