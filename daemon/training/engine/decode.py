"""Free-running decoding: many prompts at once, padded on the left, with a key-value cache."""

from collections.abc import Callable, Sequence

import torch

from daemon.training.engine.base import Base
from daemon.training.engine.batches import chunks, pad_left

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
    for group in chunks(range(len(prompts)), lambda at: len(prompts[at]) + rooms[at]):
        said = _continue(base, [prompts[at] for at in group], [rooms[at] for at in group], alive, choose)
        for at, answer in zip(group, said, strict=True):
            answers[at] = answer
    return answers


def _continue(
    base: Base, prompts: list[list[int]], rooms: list[int], alive: Callable[[], None], choose: Choose
) -> list[list[int]]:
    said: list[list[int]] = [[] for _ in prompts]
    speaking = set(range(len(prompts)))
    tokens, mask, positions = pad_left(base, prompts)
    cache = None
    while True:
        output = base.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        chosen = choose(output.logits[:, -1].float())
        for row in sorted(speaking):
            said[row].append(int(chosen[row]))
            if said[row][-1] in base.chat.stop_ids or len(said[row]) >= rooms[row]:
                speaking.discard(row)
        if not speaking:
            return said
        tokens = chosen[:, None]
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
        # A row that has said everything waits for the others, and must not run past the positions that there are.
        positions = (positions[:, -1:] + 1).clamp(max=base.context - 1)
        alive()
