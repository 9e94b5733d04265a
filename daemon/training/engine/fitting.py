"""How a batch is trained on a loaded base so that it fits into memory, and layers that are computed twice for it."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

import torch
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from daemon.training.engine.base import Base
from daemon.training.engine.batches import Draw, Encoded
from daemon.training.engine.loop import Material
from daemon.training.engine.machine import free_memory
from daemon.training.engine.memory import BUDGETS, TYPICAL, Fit, Shape, Work, fit, peak
from daemon.training.engine.objectives import Objective
from daemon.training.engine.packing.attention import attends_to_trees, tree_attention
from daemon.training.engine.packing.narrow import narrowed_as_now
from daemon.training.engine.packing.passes import parts
from daemon.training.engine.packing.tree import Tree, plant
from daemon.training.engine.policy import Plan


@dataclass(frozen=True, slots=True)
class Fitted:
    """How a batch is trained, and the most bytes that it will take."""

    fit: Fit
    peak: int


def fitted(base: Base, material: Material, plan: Plan, rank: int, limit: float) -> Fitted:
    """How to train on it so that it fits; raises NothingFits. `limit`: GiB that the process may use, 0: no limit."""
    shape = Shape.of(base.folder)
    four_bits = bool(getattr(base.model, "is_loaded_in_4bit", False))
    best = Fit(base.model.dtype.itemsize, four_bits=four_bits, accelerated=base.device.type == "cuda")
    asked = work(base, material, plan, rank)
    way = fit(shape, asked, best, available(base.device, limit), False)
    return Fitted(way, peak(shape, asked, way))


def needs_four_bits(folder: Path, dtype: torch.dtype, device: torch.device, limit: float, can: bool) -> bool:
    """Whether a base fits only with its weights in four bits, and may have them; raises NothingFits."""
    best = Fit(dtype.itemsize, accelerated=device.type == "cuda")
    return fit(Shape.of(folder), TYPICAL, best, available(device, limit), can).four_bits


def available(device: torch.device, limit: float) -> int:
    """Bytes of the memory that models lie in here, what this process holds already included."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return free + torch.cuda.memory_reserved()
    return free_memory(limit)


def work(base: Base, material: Material, plan: Plan, rank: int) -> Work:
    """What the first epoch's minibatches will ask of memory; they are drawn here as they will be."""
    rows = material.rows
    draw = Draw(range(len(rows)), plan.batch_size, Random(plan.seed), material.kin)
    drawn = [[rows[at] for at in draw.next()] for _ in range(-(-len(rows) // plan.batch_size))]
    trees = [_planted(plan.objective, part) for part in drawn]
    largest = max(range(len(trees)), key=lambda at: len(trees[at].tokens))
    depths = trees[largest].depths
    return Work(
        tokens=len(depths),
        longest=max(_length(plan.objective, row) for row in rows),
        seen=sum(depths) / len(depths) + 64,
        answers=max(sum(len(answer) for _, answer in plan.objective.lines(part)) for part in drawn),
        rank=rank,
        read={tokens: _read(replace(base, tokens=tokens), plan.objective, drawn[largest]) for tokens in BUDGETS},
    )


def _read(base: Base, objective: Objective, rows: Sequence[Encoded]) -> int:
    """How many tokens the passes over a minibatch read."""
    groups = parts(base, rows, lambda row: objective.lines([row]))
    return sum(len(_planted(objective, group).tokens) for group in groups)


def _planted(objective: Objective, rows: Sequence[Encoded]) -> Tree:
    return plant([prompt + answer for prompt, answer in objective.lines(rows)])


@contextmanager
def recomputing(model: PreTrainedModel) -> Iterator[None]:
    """Have the layers computed again on the way back; nothing else of a model is put into training."""
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


def _length(objective: Objective, row: Encoded) -> int:
    return len(row.prompt) + sum(len(answer) for _, answer in objective.lines([row]))
