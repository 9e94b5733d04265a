"""Layers computed again on the way back instead of being kept (gradient checkpointing, arXiv 1604.06174)."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from daemon.training.engine.packing.attention import attends_to_trees, tree_attention
from daemon.training.engine.packing.narrow import narrowed_as_now


@contextmanager
def recomputing(model: PreTrainedModel) -> Iterator[None]:
    """Have the layers of the passes meanwhile computed again; nothing else of a model is put into training."""
    options = {"use_reentrant": False, "context_fn": partial(_alike, model)}
    model.activation_checkpointing_enable(options)
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        # Its own flag alone: dropout inside stays as it is.
        layer.training = True
    try:
        yield
    finally:
        model.activation_checkpointing_disable()  # type: ignore[no-untyped-call]
        for layer in layers:
            layer.training = False


def _alike(model: PreTrainedModel) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What surrounds a layer's first computation and its second, which takes place long after the pass: the same."""
    trees = tree_attention(model) if attends_to_trees(model) else nullcontext()
    return nullcontext(), _both(trees, narrowed_as_now(model))


@contextmanager
def _both(one: AbstractContextManager[None], other: AbstractContextManager[None]) -> Iterator[None]:
    with one, other:
        yield
