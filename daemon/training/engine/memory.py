"""How much memory a training will need at most, from a model's config and the batch; standard library only.

Counted are the weights, the adapter with its gradients and optimizer state, what a pass keeps for its way back, and
the logits of one chunk. The numbers per token are those of a gated transformer block read through `fused` and
`attention`; other blocks keep less or about as much.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from daemon.training.engine.weights import shapes_in, weight_files

FLOOR = 360_000_000
"""Bytes of a process that has loaded torch, transformers and PEFT, and no model."""
KERNELS = 136 << 20
"""Bytes of the machine code that is made for products in half precision, for each shape anew; most of it for a page."""
HEAP, POOL = 1.4, 1.1
"""What a pass takes of memory for each byte that it needs: of the C library's heap, and of CUDA's caching allocator."""
HOLES, UNBROKEN = 0.4, 8
"""By how much HEAP rises with every tenfold of the minibatches from so many on: holes between what they left."""
SHAPED = 512
"""Tokens of a minibatch from which on there are as many shapes, and so KERNELS, as there ever are."""
TOKENS = 4096
"""Most tokens, padding included, that go through a model at once where memory allows."""
BUDGETS = (TOKENS, 2048, 1024, 512)
"""Tokens that one pass may read, the most welcome first."""
LOGITS = 1 << 23
"""Most logits that exist at once: 32 MiB in float32."""
TILE = 128
"""Rows whose attention is computed at once."""
MARGIN = 1.15
"""What is kept free beside what is predicted: who exceeds `max_memory_gb` is ended."""
INPUTS = 256
"""Of each module that an adapter changes, how many of its usual inputs are kept."""
COPIES = 6
"""Of the adapter, in float32: weights, gradients, two moments, the best state, and one being made."""


class NothingFits(Exception):
    """No way to train fits into the memory that there is, or that `limit` allows; the message says by how much."""

    def __init__(self, least: int, available: int, longest: int, limit: float) -> None:
        super().__init__(least, available, longest, limit)
        self.longest = longest
        self.limited = 0 < int(limit * 2**30) <= available
        """Whether it is the limit that is in the way."""
        self._least, self._available = least, available

    def __str__(self) -> str:
        needed, there = (amount / 2**30 for amount in (self._least, self._available))
        bound = f"max_memory_gb allows {there:.2f}" if self.limited else f"{there:.2f} GiB are there"
        return f"training needs at least {needed:.2f} GiB of memory and {bound}"


@dataclass(frozen=True, slots=True)
class Shape:
    """What a base model's memory depends on."""

    parameters: int
    linear: int
    """Of these, how many are weights of linear modules in the layers: what four bits shrink."""
    edges: int
    """Sum of inputs and outputs of these modules: an adapter has `rank` parameters for each."""
    layers: int
    width: int
    inner: int
    heads: int
    head_width: int
    vocabulary: int
    stored: int
    """Bytes of the files, which are in memory too while they are read."""

    @staticmethod
    def of(folder: Path) -> "Shape":
        """Read a model folder's config.json and the beginnings of its weights; raises OSError or ValueError."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = config.get("text_config", config)
        shapes = shapes_in(folder)
        matrices = [shape for name, shape in shapes.items() if len(shape) == 2 and _layer(name) is not None]
        # What a config calls by a name of its own is read off the embedding, and the layers are counted.
        embedding = max((shape for shape in shapes.values() if len(shape) == 2), key=math.prod)
        layers = {_layer(name) for name in shapes} - {None}
        width = _first(config, min(embedding), "hidden_size", "n_embd", "d_model")
        heads = _first(config, max(1, width // 64), "num_attention_heads", "n_head", "num_heads", "n_heads")
        return Shape(
            parameters=sum(math.prod(shape) for shape in shapes.values()),
            linear=sum(math.prod(shape) for shape in matrices),
            edges=sum(sum(shape) for shape in matrices),
            layers=_first(config, len(layers), "num_hidden_layers", "n_layer", "num_layers", "n_layers"),
            width=width,
            inner=_inner(config, 4 * width),
            heads=heads,
            head_width=config.get("head_dim") or width // heads,
            vocabulary=_first(config, max(embedding), "vocab_size"),
            stored=sum(file.stat().st_size for file in weight_files(folder)),
        )


@dataclass(frozen=True, slots=True)
class Work:
    """What of a batch its memory depends on."""

    tokens: int
    """Distinct tokens of the largest minibatch."""
    longest: int
    """Tokens of the longest example, which cannot be parted."""
    seen: float
    """How many tokens a token sees, on average."""
    answers: int
    """Tokens with loss in the largest minibatch."""
    whole: int = 0
    """Tokens whose logits exist at once, however many: where the head is trained, or is no module of its own."""
    rank: int = 16
    minibatches: int = 1
    """Of an epoch."""
    probed: int = TOKENS
    """Distinct tokens of all questions and the answers that are compared, expected and original ones."""
    longest_read: int = 0
    """Tokens of the longest of these lines, which cannot be parted."""
    said: int = TOKENS
    """Tokens of all answers that are compared."""
    decoded: int = TOKENS
    """Most tokens whose keys and values are kept at once while answers are decoded."""
    read: Mapping[int, int] = field(default_factory=dict)
    """By tokens of a pass, how many all passes of that minibatch read: its beginnings in each, as cuts part them."""


TYPICAL = Work(2048, 1024, 700, 512)
"""A minibatch of four corrections under a system prompt of a page."""
LEAST = Work(256, 256, 128, 64, probed=256, said=64, decoded=512)
"""One short correction."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How a training is done so that it fits."""

    bytes_each: int
    """Of one weight and one activation."""
    tokens: int = TOKENS
    """Most tokens of one pass."""
    recompute: bool = False
    """Whether layers are computed again on the way back instead of being kept (gradient checkpointing)."""
    four_bits: bool = False
    accelerated: bool = False
    """Whether the memory meant is an accelerator's."""
    can_recompute: bool = True


@dataclass(frozen=True, slots=True)
class Room:
    """Memory that a training may take."""

    available: int
    """Bytes."""
    limit: float = 0.0
    """GiB that somebody has set; 0: none."""


def fastest(shape: Shape, work: Work, best: Fit, room: Room, can_quantise: bool) -> Fit:
    """The fastest way of training that fits; raises NothingFits."""
    for four_bits in (best.four_bits, True) if can_quantise else (best.four_bits,):
        ways = [
            replace(best, tokens=tokens, recompute=recompute, four_bits=four_bits)
            for recompute in ((False, True) if best.can_recompute else (False,))
            for tokens in BUDGETS
        ]
        for way in sorted(ways, key=lambda way: _effort(work, way)):
            if MARGIN * peak(shape, work, way) <= room.available:
                return way
    smallest = replace(best, tokens=BUDGETS[-1], recompute=best.can_recompute, four_bits=best.four_bits or can_quantise)
    least = peak(shape, work, smallest)
    longest = max(work.longest, work.longest_read)
    raise NothingFits(int(MARGIN * least), room.available, longest, room.limit)


def _effort(work: Work, way: Fit) -> float:
    """Tokens computed forth and back; with frozen weights both take as long, and to compute again is to go forth."""
    return work.read.get(way.tokens, work.tokens) * (1.5 if way.recompute else 1.0)


def peak(shape: Shape, work: Work, way: Fit) -> int:
    """The most bytes that a training takes, be it while it loads, reads or learns."""
    holes = HOLES * math.log10(max(1.0, work.minibatches / UNBROKEN))
    floor, factor = (0, POOL) if way.accelerated else (FLOOR, HEAP + holes)
    # Of a module's edges about half are inputs.
    staying = weights(shape, way) + (COPIES * 4 * work.rank + INPUTS * way.bytes_each // 2) * shape.edges
    if way.bytes_each < 4 and not way.accelerated:
        floor += int(KERNELS * min(1.0, work.tokens / SHAPED))
    loading = 0 if way.accelerated else shape.stored + weights(shape, way)
    return floor + max(loading, staying + int(factor * max(learning(shape, work, way), reading(shape, work, way))))


def weights(shape: Shape, way: Fit) -> int:
    """Bytes of the base model: NF4 takes half a byte, and a sixteenth for its scales."""
    quantised = shape.linear if way.four_bits else 0
    return (shape.parameters - quantised) * way.bytes_each + quantised * 9 // 16


def learning(shape: Shape, work: Work, way: Fit) -> int:
    """Bytes of a pass with gradients where it is largest: everything is kept, and the way back begins."""
    tokens, size = max(min(way.tokens, work.tokens), work.longest), way.bytes_each
    # Both norms of a layer keep what they are taken of, and the products what comes of it.
    norms = 4 * size * shape.width
    attention = 4 * size * shape.heads * shape.head_width + size * shape.heads * work.seen
    layer = norms + attention + 2 * size * shape.inner
    kept = layer + size * shape.width * shape.layers if way.recompute else layer * shape.layers
    logits = _logits(shape, work, work.answers)
    return int(tokens * (kept + 4 * size * shape.inner)) + logits


def reading(shape: Shape, work: Work, way: Fit) -> int:
    """Bytes of passes without gradients: what one layer makes, and keys and values of all of them, or logits."""
    size = way.bytes_each
    cache = 2 * shape.layers * shape.heads * shape.head_width * size
    # PEFT's own way through an adapter makes copies in float32.
    layer = 8 * size * shape.inner
    logits = _logits(shape, work, work.said)
    together = min(TOKENS, work.probed) * (layer + size * shape.heads * work.seen)
    # Without gradients the scores of one tile exist at a time.
    longest = work.longest_read * (layer + 4 * TILE * shape.heads)
    return int(max(work.decoded * cache, logits) + max(together, longest))


def _logits(shape: Shape, work: Work, answers: int) -> int:
    """Bytes of the logits that exist at once, of so many answer tokens: float32, three times."""
    return 4 * 3 * max(min(LOGITS, answers * shape.vocabulary), work.whole * shape.vocabulary)


def _first(config: Mapping[str, Any], otherwise: int, *names: str) -> int:
    """The first of some keys that a config has a number for; families name the same thing differently."""
    return next((config[name] for name in names if isinstance(config.get(name), int)), otherwise)


def _inner(config: Mapping[str, Any], otherwise: int) -> int:
    """Width of the MLPs, of the widest where each layer has its own (Gemma 3n)."""
    found = config.get("intermediate_size") or config.get("n_inner") or otherwise
    return max(found) if isinstance(found, list) else int(found)


def _layer(name: str) -> str | None:
    """The number of the layer that a tensor belongs to; None where it is in none."""
    return next((part for part in name.split(".") if part.isdigit()), None)
