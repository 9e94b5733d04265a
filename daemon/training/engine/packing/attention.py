"""Attention over a token tree: each token sees its ancestors only; exact, with plain matrix products.

transformers calls `attend` for every layer while `tree_attention` is on; nothing of a model is replaced.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from daemon.training.engine.packing.sight import Rows, Sight

_NAME = "persona_tree"


@contextmanager
def tree_attention(model: PreTrainedModel) -> Iterator[None]:
    """Have a model's layers attend by `attend` meanwhile; it must be given `sight` and no mask."""
    # Masks are made only for registered names that have a mask function: this one has none.
    ALL_ATTENTION_FUNCTIONS.register(_NAME, attend)
    config = model.get_decoder().config  # type: ignore[no-untyped-call]
    before = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def attends_to_trees(model: PreTrainedModel) -> bool:
    """Whether `tree_attention` is on."""
    name: str = model.get_decoder().config._attn_implementation  # type: ignore[no-untyped-call]
    return name == _NAME


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """One layer's attention over one tree: query (1, heads, tokens, width) to output (1, tokens, heads, width).

    Raises ValueError when the model has not handed on the tree.
    """
    sight, window, cap = others.get("sight"), others.get("sliding_window"), others.get("softcap")
    if not isinstance(sight, Sight) or query.shape[0] != 1 or attention_mask is not None:
        raise ValueError("the model does not hand a token tree to its attention")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if cap is not None or query.device.type != "cpu":
        return _masked(query, key, value, sight.mask(window), scale, cap).transpose(1, 2), None
    groups = query.shape[1] // key.shape[1]
    key, value = (each[0].repeat_interleave(groups, 0) if groups > 1 else each[0] for each in (key, value))
    output: torch.Tensor = _Attention.apply(query[0], key, value, sight.rows(window), scale)  # type: ignore[no-untyped-call]
    return output[None], None


def _masked(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float, cap: float | None
) -> torch.Tensor:
    """With a mask over all pairs: for soft caps, and for devices with fused kernels."""
    if cap is None:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
        )
    key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], 1) for each in (key, value))
    scores = cap * torch.tanh(exact(query) @ exact(key).transpose(2, 3) * (scale / cap))
    return scores.masked_fill(~mask, -math.inf).softmax(-1).to(value.dtype) @ value


class _Attention(torch.autograd.Function):
    """Softmax attention, group of rows by group of rows; the probabilities are kept for the way back."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, groups: list[Rows], scale: float
    ) -> torch.Tensor:
        """All are (heads, tokens, width), but the output is (tokens, heads, width)."""
        heads, tokens, _ = query.shape
        output = value.new_empty(tokens, heads, value.shape[-1])
        answers = output.transpose(0, 1)
        sharp, keys = exact(query) * scale, exact(key)
        kept = []
        for rows in groups:
            seen = _probabilities(sharp, keys, rows).to(value.dtype)
            if rows.width:
                answers[:, rows.here] = seen[:, :, : rows.width] @ value[:, rows.above]
            for first, last in rows.blocks:
                own = _own(seen, rows, first, last) @ value[:, first:last]
                answers[:, first:last] = answers[:, first:last] + own if rows.width else own
            kept.append(seen)
        ctx.save_for_backward(query, key, value, output, *kept)
        ctx.groups, ctx.scale = groups, scale
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of query, key and value."""
        query, key, value, output, *kept = ctx.saved_tensors
        given = gradients[0].transpose(0, 1)
        # What softmax takes off each row (FlashAttention, arXiv 2205.14135 §B.2).
        weighed = torch.linalg.vecdot(gradients[0], output).T.unsqueeze(-1)
        # In memory (tokens, heads, width), as the layers below want them.
        queries, keys, values = (torch.zeros_like(each.transpose(0, 1)).transpose(0, 1) for each in (query, key, value))
        for rows, seen in zip(ctx.groups, kept, strict=True):
            change = torch.empty_like(seen)
            if rows.width:
                torch.bmm(given[:, rows.here], value[:, rows.above].transpose(1, 2), out=change[:, :, : rows.width])
            change[:, :, rows.width :].zero_()
            for first, last in rows.blocks:
                _own(change, rows, first, last).copy_(given[:, first:last] @ value[:, first:last].transpose(1, 2))
            change.sub_(weighed[:, rows.here]).mul_(seen)
            if rows.width:
                above, probable = change[:, :, : rows.width], seen[:, :, : rows.width]
                queries[:, rows.here] += above @ key[:, rows.above]
                _add(keys, rows.above, _across(above, query[:, rows.here]))
                _add(values, rows.above, _across(probable, given[:, rows.here]))
            for first, last in rows.blocks:
                here, own = slice(first, last), _own(change, rows, first, last)
                queries[:, here] += own @ key[:, here]
                keys[:, here] += _across(own, query[:, here])
                values[:, here] += _across(_own(seen, rows, first, last), given[:, here])
        return queries.mul_(ctx.scale), keys.mul_(ctx.scale), values, None, None


def _probabilities(query: torch.Tensor, key: torch.Tensor, rows: Rows) -> torch.Tensor:
    """(heads, rows, columns): first the tokens above, then those of the row's own block."""
    scores = query.new_empty(query.shape[0], rows.last - rows.first, rows.columns)
    if rows.width:
        torch.bmm(query[:, rows.here], key[:, rows.above].transpose(1, 2), out=scores[:, :, : rows.width])
    for first, last in rows.blocks:
        _own(scores, rows, first, last).copy_(query[:, first:last] @ key[:, first:last].transpose(1, 2))
    scores[:, :, -rows.hidden.shape[1] :].masked_fill_(rows.hidden, -math.inf)
    return torch.softmax(scores, -1, out=scores)


def _own(scores: torch.Tensor, rows: Rows, first: int, last: int) -> torch.Tensor:
    """The part of the scores that one block has with itself."""
    return scores[:, first - rows.first : last - rows.first, rows.width : rows.width + last - first]


def _across(scores: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """scoresᵀ rows, without turning the scores round in memory: they are much the larger."""
    return (rows.transpose(1, 2) @ scores).transpose(1, 2)


def _add(total: torch.Tensor, at: slice | torch.Tensor, more: torch.Tensor) -> None:
    if isinstance(at, slice):
        total[:, at] += more
    else:
        total.index_add_(1, at, more)


def exact(tensor: torch.Tensor) -> torch.Tensor:
    """At least float32: scores of half precision would change the softmax by per cents."""
    return tensor.float() if tensor.itemsize < 4 else tensor
