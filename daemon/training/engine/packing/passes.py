"""One pass of some answers through the model: as a token tree where the model can read one, else as padded rows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from daemon.training.engine.base import Base
from daemon.training.engine.batches import by_length, pad_left
from daemon.training.engine.memory import LOGITS, TOKENS
from daemon.training.engine.packing.attention import exact, tree_attention
from daemon.training.engine.packing.narrow import narrowed
from daemon.training.engine.packing.recompute import recomputing
from daemon.training.engine.packing.shapes import lengthened, step
from daemon.training.engine.packing.sight import Sight
from daemon.training.engine.packing.tree import Tree, Unit, cut, plant

Line = tuple[list[int], list[int]]
"""Tokens of a prompt and of the answer that follows it; neither is empty."""
Criterion = Callable[[torch.Tensor, slice], tuple[torch.Tensor, torch.Tensor]]
"""From float32 logits (some answer tokens, vocabulary), and which these are, to two values for each of them."""


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where a pass predicts the answers' tokens; everything is (answer tokens,), line after line."""

    at: torch.Tensor
    """Position in the pass, its rows laid end to end, whose output predicts the token."""
    answers: torch.Tensor
    lines: torch.Tensor
    """Which line the token belongs to."""

    def parted(self, first: int) -> tuple["Places", "Places"]:
        """Those of the first lines, and those of all others, numbered anew."""
        count = int((self.lines < first).sum())
        return (
            Places(self.at[:count], self.answers[:count], self.lines[:count]),
            Places(self.at[count:], self.answers[count:], self.lines[count:] - first),
        )


@dataclass(frozen=True, slots=True, eq=False)
class TokenLosses:
    """What a model makes of answer tokens; all are (answer tokens,)."""

    losses: torch.Tensor
    """Negative log-likelihood, nats."""
    leads: torch.Tensor
    """How far the token's logit is ahead of the best other one; greedy decoding says the answer if all are > 0."""
    lines: torch.Tensor
    """Which line each token belongs to."""

    def per_line(self, values: torch.Tensor, count: int) -> torch.Tensor:
        """The sums of a value per token over each of `count` lines: (count,)."""
        return values.new_zeros(count).index_add(0, self.lines, values)

    def least_leads(self, count: int) -> list[float]:
        """The lead of the least certain token of each of the first `count` lines."""
        within = self.lines < count
        least = self.leads.new_full((count,), torch.inf)
        found: list[float] = least.scatter_reduce(0, self.lines[within], self.leads[within], "amin").tolist()
        return found


def token_losses(base: Base, lines: Sequence[Line]) -> TokenLosses:
    """Loss and lead of every answer token of some lines, in one pass; gradients flow where they are enabled."""
    return losses_of(base, *answer_states(base, lines))


def losses_of(base: Base, found: torch.Tensor, places: Places) -> TokenLosses:
    """The same of a pass that was made: what the head makes the answers' tokens of, and where these are."""

    def criterion(logits: torch.Tensor, which: slice) -> tuple[torch.Tensor, torch.Tensor]:
        answers = places.answers[which]
        return functional.cross_entropy(logits, answers, reduction="none"), _leads(logits.detach(), answers)

    losses, leads = per_token(base, found, criterion)
    return TokenLosses(losses, leads, places.lines)


def length(line: Line) -> int:
    """Tokens of a prompt and its answer."""
    return sum(map(len, line))


def micro_batches(base: Base, units: Sequence[Unit], lines: Callable[[Unit], list[Line]]) -> Iterator[list[Unit]]:
    """Units in groups that are read in one pass each; a unit is what must not be parted."""
    return grouped(base, units, lines, base.tokens if torch.is_grad_enabled() else TOKENS)


def grouped(
    base: Base, units: Sequence[Unit], lines: Callable[[Unit], list[Line]], tokens: int
) -> Iterator[list[Unit]]:
    """The same, of at most so many tokens a pass, padding included."""
    if base.capability.trees:
        return cut(units, lambda unit: [prompt + answer[:-1] for prompt, answer in lines(unit)], tokens)
    width = len(max((lines(unit) for unit in units), key=len, default=[]))
    return by_length(units, lambda unit: max(map(length, lines(unit))) * width, tokens)


def answer_states(base: Base, lines: Sequence[Line]) -> tuple[torch.Tensor, Places]:
    """What the head makes the answers' tokens of, (answer tokens, width), and where these are."""
    inputs, places = planned(base, lines)
    return states(base, inputs, places.at), places


def planned(base: Base, lines: Sequence[Line]) -> tuple[dict[str, Any], Places]:
    """Inputs of the pass that reads some lines, and where in it their answers are predicted."""
    # The last token predicts nothing, so it is not read.
    rows = [prompt + answer[:-1] for prompt, answer in lines]
    inputs, paths = _pass_inputs(base, rows)
    at = [place for (prompt, _), path in zip(lines, paths, strict=True) for place in path[len(prompt) - 1 :]]
    answers = [token for _, answer in lines for token in answer]
    owners = [line for line, (_, answer) in enumerate(lines) for _ in answer]
    return inputs, Places(*(torch.tensor(each, device=base.device) for each in (at, answers, owners)))


def states(base: Base, inputs: dict[str, Any], at: torch.Tensor) -> torch.Tensor:
    """What the head makes tokens of, (places, width), at some places of a pass, its rows laid end to end."""
    model = base.model
    with ExitStack() as around:
        if base.capability.trees:
            around.enter_context(tree_attention(model))
        around.enter_context(narrowed(base, at))
        if base.recompute and torch.is_grad_enabled():
            around.enter_context(recomputing(base))
        if base.capability.head:
            decoder = model.get_decoder()  # type: ignore[no-untyped-call]
            output = decoder(**inputs, use_cache=False).last_hidden_state
        else:
            output = model(**inputs, use_cache=False).logits
    found: torch.Tensor = output.flatten(0, 1)[at]
    return found


def per_token(base: Base, states: torch.Tensor, criterion: Criterion) -> tuple[torch.Tensor, torch.Tensor]:
    """Two values per answer token, the first with a gradient, by a criterion over logits that exist in chunks only."""
    if not base.capability.head or _trains(head(base)):
        return criterion(logits(base, states), slice(None))
    first, second = _PerToken.apply(states, base, criterion)  # type: ignore[no-untyped-call]
    return first, second


def chunk(base: Base) -> int:
    """Of how many tokens the logits may exist at once."""
    return max(1, LOGITS // base.vocabulary)


def head(base: Base) -> torch.nn.Module:
    """The module that turns states into logits."""
    found: torch.nn.Module = base.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return found


def logits(base: Base, states: torch.Tensor) -> torch.Tensor:
    """(tokens, vocabulary), at least float32, with what some families do to them last."""
    if not base.capability.head:
        return exact(states)
    config = base.model.config.get_text_config()
    made = exact(head(base)(lengthened(states))[: len(states)])
    if scale := getattr(config, "logit_scale", None):
        made = made * scale
    if scaling := getattr(config, "logits_scaling", None):
        made = made / scaling
    if cap := getattr(config, "final_logit_softcapping", None):
        made = cap * torch.tanh(made / cap)
    return made


class _PerToken(torch.autograd.Function):
    """Each token's value has a gradient of its own, whatever it is multiplied with later: taken at once, in chunks.

    So no logits are kept, and none are computed twice (Liger Kernel's idea, arXiv 2410.10989 §3.2, per token).
    """

    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, base: Base, criterion: Criterion) -> tuple[torch.Tensor, torch.Tensor]:
        """Both values of every token."""
        size = chunk(base)
        wanted = ctx.needs_input_grad[0]
        firsts, seconds = list[torch.Tensor](), list[torch.Tensor]()
        gradients = list[torch.Tensor]()
        for start in range(0, len(states), size):
            which = slice(start, min(start + size, len(states)))
            with torch.set_grad_enabled(wanted):
                part = states[which].detach().requires_grad_(wanted)
                first, second = criterion(logits(base, part), which)
                gradients.extend(torch.autograd.grad(first.sum(), part) if wanted else ())
            firsts.append(first.detach())
            seconds.append(second.detach())
        ctx.save_for_backward(*gradients)
        joined = torch.cat(seconds)
        ctx.mark_non_differentiable(joined)
        return torch.cat(firsts), joined

    @staticmethod
    def backward(ctx: Any, *given: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The kept gradients, each times what its value is multiplied with."""
        gradients = torch.cat(ctx.saved_tensors)
        return gradients * given[0][:, None].to(gradients.dtype), None, None


def tree_inputs(base: Base, rows: Sequence[list[int]]) -> tuple[dict[str, Any], Tree]:
    """Inputs of one pass over the tree of some token rows, and the tree."""
    multiple = step(base.model.dtype)
    tree = plant(rows).padded(multiple)
    ids, positions = (torch.tensor([each], device=base.device) for each in (tree.tokens, tree.depths))
    return {"input_ids": ids, "position_ids": positions, "sight": Sight(tree, base.device, multiple)}, tree


def _pass_inputs(base: Base, rows: Sequence[list[int]]) -> tuple[dict[str, Any], list[list[int]]]:
    """Inputs of one pass over some token rows, as a tree or else padded, and where in it the tokens of each are."""
    if base.capability.trees:
        inputs, tree = tree_inputs(base, rows)
        return inputs, tree.paths
    ids, mask, positions = pad_left(base, rows)
    width = ids.shape[1]
    paths = [list(range((at + 1) * width - len(row), (at + 1) * width)) for at, row in enumerate(rows)]
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}, paths


def _leads(logits: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    best = logits.topk(2, dim=-1)
    other = torch.where(best.indices[:, 0] == answers, best.values[:, 1], best.values[:, 0])
    return logits.gather(-1, answers[:, None])[:, 0] - other


def _trains(module: torch.nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
