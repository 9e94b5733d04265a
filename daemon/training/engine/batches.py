"""Examples as tokens, in minibatches, and as padded rows."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

import torch
from jinja2 import TemplateError

from daemon.training.engine.base import Base
from daemon.training.engine.job import Example, Message
from daemon.training.engine.memory import TOKENS

Item = TypeVar("Item")
Kin = tuple[int, ...]
"""Names of the long beginnings that one item shares with others."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """One example as tokens: the prompt, the expected answer with its end token, and the original one."""

    example: Example
    prompt: list[int]
    expected: list[int]
    original: list[int]
    """Empty when the example names no original answer."""

    @property
    def question(self) -> str:
        """What the user said last; nothing, if nobody did."""
        return next((turn["content"] for turn in reversed(self.example.messages) if turn["role"] == "user"), "")

    @property
    def head(self) -> list[Message]:
        """The turns before that."""
        turns = self.example.messages
        return turns[: max((at for at, turn in enumerate(turns) if turn["role"] == "user"), default=len(turns))]

    def asking(self, question: str) -> list[Message]:
        """The conversation with another last question."""
        rest = self.example.messages[len(self.head) + 1 :]
        return [*self.head, {"role": "user", "content": question}, *rest]


def encode(base: Base, examples: Sequence[Example]) -> tuple[list[Encoded], dict[str, str]]:
    """Examples as tokens, and by id why those are none that the base's context or chat template does not take."""
    found = [(example, _encode(base, example)) for example in examples]
    return (
        [row for _, row in found if isinstance(row, Encoded)],
        {example.id: row for example, row in found if isinstance(row, str)},
    )


def pad_left(base: Base, rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token rows as ids, attention mask and positions, each (rows, width)."""
    width = max(len(row) for row in rows)
    filler = base.chat.end_id  # any token will do: the mask hides it
    ids = torch.tensor([[filler] * (width - len(row)) + row for row in rows], device=base.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=base.device)
    return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)


def by_length(items: Sequence[Item], length: Callable[[Item], int], tokens: int = TOKENS) -> Iterator[list[Item]]:
    """Items of similar length together, each group at most `tokens` tokens when padded."""
    group: list[Item] = []
    for item in sorted(items, key=length, reverse=True):
        if group and length(group[0]) * (len(group) + 1) > tokens:
            yield group
            group = []
        group.append(item)
    if group:
        yield group


class Draw:
    """Minibatches without end: every item of a pool once per epoch, in a new order each time, kin beside kin.

    kin: by item, the long beginnings that it shares with others, the longest last; where there are none, all orders
    are equally likely. A minibatch of kin is read at a fraction of the price.
    """

    def __init__(self, pool: Sequence[int], size: int, random: Random, kin: Sequence[Kin] = ()) -> None:
        self._pool, self._size, self._random, self._kin = list(pool), size, random, kin
        self._waiting: list[list[int]] = []

    def next(self) -> list[int]:
        """The items of the next minibatch; of an empty pool none."""
        if not self._waiting and self._pool:
            order = self._shuffled()
            self._waiting = [order[at : at + self._size] for at in range(0, len(order), self._size)]
            if self._kin:
                self._random.shuffle(self._waiting)
        return self._waiting.pop(0) if self._waiting else []

    def narrow(self, pool: Sequence[int]) -> None:
        """Draw of these items only, from now on."""
        self._pool, self._waiting = list(pool), []

    def drop(self, items: Collection[int]) -> None:
        """Draw these no more, from the next epoch on."""
        self._pool = [item for item in self._pool if item not in items]

    @property
    def empty(self) -> bool:
        """Whether there is nothing left to be drawn."""
        return not (self._pool or self._waiting)

    def state(self) -> list[Any]:
        """What `resumed` needs, besides the random numbers' own state."""
        return [self._pool, self._waiting]

    def resumed(self, state: list[Any]) -> None:
        """Go on where another one stopped."""
        self._pool, self._waiting = state

    def _shuffled(self) -> list[int]:
        order = self._random.sample(self._pool, len(self._pool))
        if not self._kin:
            return order
        lots: dict[int, float] = {}
        for item in order:
            for one in self._kin[item]:
                lots.setdefault(one, self._random.random())
        return sorted(order, key=lambda item: [lots[one] for one in self._kin[item]])


def _encode(base: Base, example: Example) -> Encoded | str:
    """An example as tokens, or the sentence that says why it is none."""
    expected = base.chat.answer_ids(example.expected)
    original = base.chat.answer_ids(example.original) if example.original.strip() else []
    room = base.context - len(expected)
    try:
        prompt = _prompt(base, example, room)
    except TemplateError as error:
        # It took a plain question when the base was loaded, so it is this conversation that it does not take.
        return (
            f"the base model's chat template refuses the conversation in its context: {error};"
            " insert it again with turns that the template takes, or choose another base and release it"
        )
    if len(prompt) > room:
        return (
            f"context and expected response need {len(prompt) - room} tokens more than the base model can read;"
            " insert it again, shorter, or choose a base with a longer context and release it"
        )
    # Of a wrong answer that rambles on, the beginning tells what is not to be said.
    return Encoded(example, prompt, expected, original[: base.context - len(prompt)])


def _prompt(base: Base, example: Example, room: int) -> list[int]:
    """The conversation as tokens, without its oldest turns where it would be longer than `room`, if that helps."""
    messages = list(example.messages)
    prompt = base.chat.prompt_ids(messages)
    while len(prompt) > room and _forget_oldest(messages):
        prompt = base.chat.prompt_ids(messages)
    return prompt


def _forget_oldest(messages: list[Message]) -> bool:
    """Drop the oldest turn that is not the system prompt, up to the next user turn; False when only one is left."""
    head = 1 if messages and messages[0]["role"] == "system" else 0
    later = [at for at in range(head + 1, len(messages)) if messages[at]["role"] == "user"]
    if later:
        del messages[head : later[0]]
    return bool(later)
