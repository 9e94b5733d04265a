"""Free-running decoding of many prompts at once: below their tree, or as padded rows with a key-value cache."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch.nn import functional

from daemon.training.engine.base import Base
from daemon.training.engine.batches import by_length, pad_left
from daemon.training.engine.memory import TOKENS
from daemon.training.engine.packing.growth import Growth
from daemon.training.engine.packing.passes import logits, states, tree_inputs
from daemon.training.engine.packing.shapes import SMALL
from daemon.training.engine.packing.tree import cut, plant

Choose = Callable[[torch.Tensor], torch.Tensor]
"""From logits (rows, vocabulary) to the next tokens (rows,)."""


def greedy(logits: torch.Tensor) -> torch.Tensor:
    """The likeliest token of each row."""
    return logits.argmax(-1)


@torch.no_grad()
def decode(
    base: Base,
    prompts: Sequence[list[int]],
    rooms: Sequence[int],
    alive: Callable[[], None],
    choose: Choose = greedy,
) -> list[list[int]]:
    """The tokens said after each prompt, until one ends the turn (it is included) or the room is used up."""
    answers: list[list[int]] = [[] for _ in prompts]
    for group in _groups(base, prompts, rooms):
        some, their_rooms = [prompts[at] for at in group], [rooms[at] for at in group]
        voice = _BelowTree(base, some, max(their_rooms)) if base.capability.trees else _Padded(base, some)
        for at, answer in zip(group, _said(base, voice, their_rooms, alive, choose), strict=True):
            answers[at] = answer
    return answers


class _Voice(Protocol):
    """Some rows that are continued together."""

    def begin(self) -> torch.Tensor:
        """Logits (rows, vocabulary) of the first tokens, float32."""

    def go_on(self, chosen: torch.Tensor) -> torch.Tensor:
        """The same of those after the tokens chosen, (rows,)."""


class _BelowTree:
    """Prompts as one tree, each of whose beginnings is read and kept once; the answers grow below it."""

    def __init__(self, base: Base, prompts: list[list[int]], most: int) -> None:
        self._base = base
        self._count = len(prompts)
        # Few shapes occur where the last prompt stands for some that are not there.
        prompts = prompts + prompts[-1:] * (-len(prompts) % SMALL)
        self._inputs, tree = tree_inputs(base, prompts)
        self._growth = Growth(tree, most, self._inputs["sight"])
        self._ends = torch.tensor([path[-1] for path in tree.paths], device=base.device)
        self._rows = torch.arange(len(prompts), device=base.device)

    def begin(self) -> torch.Tensor:
        return self._logits(self._inputs, self._ends)

    def go_on(self, chosen: torch.Tensor) -> torch.Tensor:
        self._growth.grow()
        # A row that has said everything waits for the others, and must not run past the positions that there are.
        positions = self._growth.depths[None].clamp(max=self._base.context - 1)
        tokens = functional.pad(chosen, (0, len(self._rows) - len(chosen)))
        return self._logits({"input_ids": tokens[None], "position_ids": positions}, self._rows)

    def _logits(self, inputs: dict[str, Any], at: torch.Tensor) -> torch.Tensor:
        found = states(self._base, {**inputs, "sight": self._growth}, at[: self._count])
        return logits(self._base, found).float()


class _Padded:
    """Prompts padded on the left, with transformers' cache."""

    def __init__(self, base: Base, prompts: list[list[int]]) -> None:
        self._base = base
        self._tokens, self._mask, self._positions = pad_left(base, prompts)
        self._cache: Any = None

    def begin(self) -> torch.Tensor:
        output = self._base.model(
            input_ids=self._tokens,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = output.past_key_values
        found: torch.Tensor = output.logits[:, -1].float()
        return found

    def go_on(self, chosen: torch.Tensor) -> torch.Tensor:
        self._tokens = chosen[:, None]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(chosen), 1)], dim=1)
        self._positions = (self._positions[:, -1:] + 1).clamp(max=self._base.context - 1)
        return self.begin()


def _groups(base: Base, prompts: Sequence[list[int]], rooms: Sequence[int]) -> Iterator[list[int]]:
    """Which prompts are continued together, so that keys and values of no more than so many tokens are kept."""
    if not base.capability.trees:
        yield from by_length(range(len(prompts)), lambda at: len(prompts[at]) + rooms[at])
        return
    # Every row is given the room of the largest.
    for alike in by_length(range(len(prompts)), lambda at: rooms[at]):
        yield from cut(alike, lambda at: [prompts[at]], TOKENS)


def decoded(base: Base, prompts: Sequence[list[int]], rooms: Sequence[int]) -> int:
    """Most tokens whose keys and values are kept at once while some prompts are answered."""
    if not base.capability.trees:
        rows = ([len(prompts[at]) + rooms[at] for at in group] for group in _groups(base, prompts, rooms))
        return max(len(lengths) * max(lengths) for lengths in rows)
    return max(
        len(plant([prompts[at] for at in group]).tokens)
        + -(-len(group) // SMALL) * SMALL * max(rooms[at] for at in group)
        for group in _groups(base, prompts, rooms)
    )


def _said(base: Base, voice: _Voice, rooms: list[int], alive: Callable[[], None], choose: Choose) -> list[list[int]]:
    said: list[list[int]] = [[] for _ in rooms]
    speaking = set(range(len(rooms)))
    following = voice.begin()
    while True:
        chosen = choose(following)
        tokens = chosen.tolist()
        for row in sorted(speaking):
            said[row].append(tokens[row])
            if said[row][-1] in base.chat.stop_ids or len(said[row]) >= rooms[row]:
                speaking.discard(row)
        if not speaking:
            return said
        following = voice.go_on(chosen)
        alive()
