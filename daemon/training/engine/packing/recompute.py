"""Layers computed again on the way back instead of being kept (gradient checkpointing, arXiv 1604.06174)."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from daemon.training.engine.base import Base
from daemon.training.engine.packing.attention import attends_to_trees, tree_attention
from daemon.training.engine.packing.forwards import computed_by
from daemon.training.engine.packing.narrow import narrowed_as_now


@contextmanager
def recomputing(base: Base) -> Iterator[None]:
    """Have the layers of the passes meanwhile computed again; nothing else of a model changes.

    transformers' own switch would put the layers into training, which is dropout, and leave a hook on the embedding.
    """
    again = partial(_alike, base)
    with ExitStack() as around:
        for layer in recomputable(base.model):
            forward = partial(checkpoint, layer.forward, use_reentrant=False, context_fn=again)
            around.enter_context(computed_by(layer, forward))
        yield


def recomputable(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The layers of a model that can be computed again; transformers says which of its layers are written for it."""
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]


def _alike(base: Base) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What surrounds a layer's first computation and its second, which takes place long after the pass: the same."""
    trees = tree_attention(base.model) if attends_to_trees(base.model) else nullcontext()
    return nullcontext(), _both(trees, narrowed_as_now(base))


@contextmanager
def _both(one: AbstractContextManager[None], other: AbstractContextManager[None]) -> Iterator[None]:
    with one, other:
        yield
