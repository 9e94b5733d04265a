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

from daemon.training.engine.packing.growth import Growth
from daemon.training.engine.packing.sight import Sight, Tile

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


def tiled(device: torch.device) -> bool:
    """Whether tiles are fastest: a processor's cache holds one; accelerators have fused kernels that take a mask."""
    return device.type == "cpu"


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
    if not isinstance(sight, Sight | Growth) or query.shape[0] != 1 or attention_mask is not None:
        raise ValueError("the model does not hand a token tree to its attention")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if isinstance(sight, Growth):
        keys, values = sight.remembered(module, key, value)
        if sight.grown:
            return _masked(query, keys, values, sight.mask(window), scale, cap).transpose(1, 2), None
        sight = sight.sight
    if not tiled(query.device):
        return _masked(query, key, value, sight.mask(window), scale, cap).transpose(1, 2), None
    output: torch.Tensor = _Attention.apply(query[0], key[0], value[0], sight.tiles(window), scale, cap)  # type: ignore[no-untyped-call]
    return output[None], None


def _masked(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float, cap: float | None
) -> torch.Tensor:
    """With a mask over all pairs: for soft caps, and for devices with fused kernels."""
    if cap is not None or not tiled(query.device):
        # With a mask, CUDA's fused kernels want a key for every head; else all scores would lie in memory at once.
        key, value = (each.repeat_interleave(query.shape[1] // each.shape[1], 1) for each in (key, value))
    if cap is None:
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1]
        )
    scores = cap * torch.tanh(exact(query) @ exact(key).transpose(2, 3) * (scale / cap))
    return scores.masked_fill(~mask, -math.inf).softmax(-1).to(value.dtype) @ value


class _Attention(torch.autograd.Function):
    """Softmax attention, tile by tile; the probabilities are kept for the way back."""

    @staticmethod
    def forward(  # noqa: PLR0913 (autograd hands everything over one by one)
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        tiles: list[Tile],
        scale: float,
        cap: float | None,
    ) -> torch.Tensor:
        """All are (heads, tokens, width), but the output is (tokens, heads, width); several heads may share a key.

        cap: what no score exceeds, by cap · tanh(score / cap); None: none.
        """
        heads, tokens, _ = query.shape
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        output = value.new_empty(tokens, heads, value.shape[-1])
        answers = output.transpose(0, 1)
        sharp, keys = exact(query) * scale, exact(key)
        kept, keeps = [], any(ctx.needs_input_grad)
        # Where probabilities are kept as they come, each tile's stay where they are made.
        room = None if keeps and sharp.dtype == value.dtype else _room(tiles, sharp)
        for tile in tiles:
            scores = _products(_rows(sharp, tile, key), _of(keys, tile.keys), room)
            if cap is not None:
                scores.div_(cap).tanh_().mul_(cap)
            scores.view(heads, tile.rows, -1)[:, :, tile.open :].masked_fill_(tile.hidden, -math.inf)
            seen = torch.softmax(scores, -1, out=scores).to(value.dtype)
            answers[:, tile.here] = (seen @ _of(value, tile.keys)).view(heads, tile.rows, -1)
            if keeps:
                kept.append(seen)
        ctx.save_for_backward(query, key, value, output, *kept)
        ctx.tiles, ctx.scale, ctx.cap = tiles, scale, cap
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of query, key and value."""
        query, key, value, output, *kept = ctx.saved_tensors
        given = gradients[0].transpose(0, 1).contiguous()
        # What softmax takes off each row (FlashAttention, arXiv 2205.14135 §B.2).
        weighed = torch.linalg.vecdot(gradients[0], output).T.unsqueeze(-1)
        # In memory (tokens, heads, width), as the layers below want them.
        queries, keys, values = (
            each.new_zeros(each.shape[1], each.shape[0], each.shape[2]).transpose(0, 1) for each in (query, key, value)
        )
        room = _room(ctx.tiles, given)
        for tile, seen in zip(ctx.tiles, kept, strict=True):
            ours, wanted = _rows(query, tile, key), _rows(given, tile, key)
            change = _products(wanted, _of(value, tile.keys), room)
            change.sub_(_rows(weighed, tile, key)).mul_(seen)
            if ctx.cap is not None:
                scores = exact(ours) * (ctx.scale / ctx.cap) @ exact(_of(key, tile.keys)).transpose(1, 2)
                change.mul_(1 - scores.tanh_().square_())
            queries[:, tile.here] = (change @ _of(key, tile.keys)).view(len(query), tile.rows, -1)
            _add(keys, tile.keys, change.transpose(1, 2) @ ours)
            _add(values, tile.keys, seen.transpose(1, 2) @ wanted)
        return queries.mul_(ctx.scale), keys.mul_(ctx.scale), values, None, None, None


def _room(tiles: list[Tile], like: torch.Tensor) -> torch.Tensor:
    """Memory for the products of any tile: taken once, it stays in the cache and leaves no holes among what is kept."""
    return like.new_empty(len(like) * max(tile.rows * tile.columns for tile in tiles))


def _products(rows: torch.Tensor, columns: torch.Tensor, room: torch.Tensor | None) -> torch.Tensor:
    """rows columnsᵀ, batch by batch, in that memory or in some of their own."""
    shape = (len(rows), rows.shape[1], columns.shape[1])
    out = None if room is None else room[: math.prod(shape)].view(shape)
    return torch.bmm(rows, columns.transpose(1, 2), out=out)


def _rows(values: torch.Tensor, tile: Tile, key: torch.Tensor) -> torch.Tensor:
    """A tile's rows of (heads, tokens, width), those of all heads that share a key head behind each other."""
    return values[:, tile.here].reshape(len(key), -1, values.shape[-1])


def _of(values: torch.Tensor, pieces: list[slice]) -> torch.Tensor:
    """Some tokens of (heads, tokens, width)."""
    return values[:, pieces[0]] if len(pieces) == 1 else torch.cat([values[:, piece] for piece in pieces], 1)


def _add(total: torch.Tensor, pieces: list[slice], more: torch.Tensor) -> None:
    """Add to some tokens of (heads, tokens, width) what belongs to them."""
    first = 0
    for piece in pieces:
        last = first + piece.stop - piece.start
        total[:, piece] += more[:, first:last]
        first = last


def exact(tensor: torch.Tensor) -> torch.Tensor:
    """At least float32: scores of half precision would change the softmax by per cents."""
    return tensor.float() if tensor.itemsize < 4 else tensor
