"""A token tree that grows while answers are decoded: every row adds one token per step below its prompt."""

import torch

from daemon.training.engine.packing.shapes import rounded
from daemon.training.engine.packing.sight import Sight
from daemon.training.engine.packing.tree import Tree


class Growth:
    """What the tokens of a growing tree see, and the keys and values of all so far, layer by layer."""

    def __init__(self, tree: Tree, most: int, sight: Sight) -> None:
        """most: steps that it may grow by; `sight` is that of the tree as it is planted."""
        self.sight = sight
        self.grown = 0
        """Steps so far."""
        self.depths = torch.tensor([len(path) - 1 for path in tree.paths], device=sight.device)
        """(rows,) position of the last token of each row."""
        self._planted = len(tree.tokens)
        rows = len(tree.paths)
        self._size = rounded(self._planted + rows * most)
        self._seen = torch.zeros(rows, self._size, dtype=torch.bool, device=sight.device)
        for row, path in enumerate(tree.paths):
            self._seen[row, path] = True
        self._positions = torch.zeros(self._size, dtype=torch.long, device=sight.device)
        self._positions[: self._planted] = torch.tensor(tree.depths, device=sight.device)
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def grow(self) -> None:
        """One more token on each row, which the next pass reads in the rows' order."""
        first = self._count
        self.grown += 1
        self.depths += 1
        new = torch.arange(first, self._count, device=self._seen.device)
        self._seen[torch.arange(len(new), device=new.device), new] = True
        self._positions[new] = self.depths

    def remembered(
        self, layer: torch.nn.Module, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (1, heads, tokens so far, width) with those of the pass that is under way."""
        if id(layer) not in self._layers:
            self._layers[id(layer)] = (self._empty(key), self._empty(value))
        keys, values = self._layers[id(layer)]
        for kept, new in ((keys, key), (values, value)):
            kept[:, :, self._count - new.shape[2] : self._count] = new
        return keys[:, :, : self._used], values[:, :, : self._used]

    def mask(self, window: int | None) -> torch.Tensor:
        """(rows, tokens so far), true where a row's last token sees a token."""
        seen = self._seen[:, : self._used]
        if window is None:
            return seen
        return seen & (self.depths[:, None] - self._positions[: self._used] < window)

    def _empty(self, like: torch.Tensor) -> torch.Tensor:
        # What nobody sees must be a number all the same.
        return like.new_zeros(1, like.shape[1], self._size, like.shape[-1])

    @property
    def _count(self) -> int:
        """Tokens so far."""
        return self._planted + self.grown * len(self.depths)

    @property
    def _used(self) -> int:
        """As many, and some that nobody sees, so that few shapes occur."""
        return rounded(self._count)
