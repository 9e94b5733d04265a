"""How a batch is trained on a loaded base so that it fits into memory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch

from daemon.training.engine.base import Base
from daemon.training.engine.batches import Draw, Encoded
from daemon.training.engine.decode import decoded
from daemon.training.engine.evaluate import SPARE
from daemon.training.engine.loop import Material
from daemon.training.engine.machine import all_memory, free_memory
from daemon.training.engine.memory import BUDGETS, LEAST, TYPICAL, Fit, NothingFits, Room, Shape, Work, fit, peak
from daemon.training.engine.objectives import Objective
from daemon.training.engine.packing.passes import Line, parts
from daemon.training.engine.packing.tree import Tree, plant
from daemon.training.engine.policy import Plan


@dataclass(frozen=True, slots=True)
class Fitted:
    """How a batch is trained, and the most bytes that it will take."""

    fit: Fit
    peak: int


def fitted(base: Base, material: Material, plan: Plan, rank: int, limit: float) -> Fitted:
    """How to train on it so that it fits; raises NothingFits. `limit`: GiB that the process may use, 0: no limit."""
    shape, asked = Shape.of(base.folder), work(base, material, plan, rank)
    way = fit(shape, asked, _as_loaded(base), room(base.device, limit), False)
    return Fitted(way, peak(shape, asked, way))


def sifted(
    base: Base, rows: Sequence[Encoded], objective: Objective, rank: int, limit: float, can: bool
) -> tuple[list[Encoded], dict[str, NothingFits]]:
    """Rows that this machine could train on if nothing else ran on it, and by id why it could not on the others.

    can: whether the base may be had in four bits.
    """
    shape, best, there = Shape.of(base.folder), _as_loaded(base), _whole(base.device, limit)
    beyond: dict[str, NothingFits] = {}
    for row in sorted(rows, key=lambda row: _length(objective, row), reverse=True):
        try:
            fit(shape, _alone(objective, row, rank), best, there, can)
        except NothingFits as error:
            beyond[row.example.id] = error
        else:
            break  # and so do all that are shorter
    return [row for row in rows if row.example.id not in beyond], beyond


def would_rather(base: Base, rows: Sequence[Encoded], plan: Plan, rank: int, limit: float) -> bool:
    """Whether a batch fits into what is free only with the base in four bits, in which it is not."""
    best, there = _as_loaded(base), room(base.device, limit)
    try:
        way = fit(Shape.of(base.folder), work(base, Material(rows), plan, rank), best, there, True)
    except NothingFits:
        return False  # it is said once what is known of the anchors, too
    return way.four_bits and not best.four_bits


def needs_four_bits(folder: Path, dtype: torch.dtype, device: torch.device, limit: float, can: bool) -> bool:
    """Whether a base fits beside a batch only with its weights in four bits, and may have them; raises NothingFits."""
    shape, best = Shape.of(folder), Fit(dtype.itemsize, accelerated=device.type == "cuda")
    there = room(device, limit)
    try:
        return fit(shape, TYPICAL, best, there, can).four_bits
    except NothingFits:
        # Smaller batches may fit all the same; each says when it comes.
        return fit(shape, LEAST, best, there, can).four_bits


def room(device: torch.device, limit: float) -> Room:
    """Of the memory that models lie in here, what this process holds already included."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return Room(free + torch.cuda.memory_reserved())
    return Room(free_memory(limit), limit)


def _whole(device: torch.device, limit: float) -> Room:
    """What would be there without neighbours; those on an accelerator stay as a rule: it is they who serve."""
    return room(device, limit) if device.type == "cuda" else Room(all_memory(limit), limit)


def _as_loaded(base: Base) -> Fit:
    """The fastest way with the base as it is."""
    four_bits = bool(getattr(base.model, "is_loaded_in_4bit", False))
    return Fit(base.model.dtype.itemsize, four_bits=four_bits, accelerated=base.device.type == "cuda")


def _alone(objective: Objective, row: Encoded, rank: int) -> Work:
    """What a minibatch of one row asks of memory."""
    tokens, answers = _length(objective, row), sum(len(answer) for _, answer in objective.lines([row]))
    return Work(tokens, tokens, tokens / 2 + 64, answers, rank, probed=tokens, said=answers, decoded=tokens + SPARE)


def work(base: Base, material: Material, plan: Plan, rank: int) -> Work:
    """What the first epoch's minibatches will ask of memory; they are drawn here as they will be."""
    rows = material.rows
    draw = Draw(range(len(rows)), plan.batch_size, Random(plan.seed), material.kin)
    drawn = [[rows[at] for at in draw.next()] for _ in range(-(-len(rows) // plan.batch_size))]
    whole = replace(base, tokens=1 << 40)
    sizes = [_read(whole, plan.objective, part) for part in drawn]
    largest = max(range(len(drawn)), key=lambda at: sizes[at])
    depths = _planted(plan.objective, drawn[largest]).depths
    # The anchors' distance is a pass with gradients of its own, and not the larger one as a rule.
    held = sorted((anchor.reference.line for anchor in material.anchors), key=_tokens, reverse=True)[: plan.batch_size]
    return Work(
        tokens=max(sizes[largest], sum(map(_tokens, held))),
        longest=max(_length(plan.objective, row) for row in rows),
        seen=sum(depths) / len(depths) + 64,
        answers=max(sum(len(answer) for _, answer in plan.objective.lines(part)) for part in drawn),
        rank=rank,
        minibatches=len(drawn),
        probed=_read(whole, plan.objective, rows),
        said=sum(len(row.expected) for row in rows),
        decoded=decoded(base, [row.prompt for row in rows], [len(row.expected) + SPARE for row in rows]),
        read={tokens: _read(replace(base, tokens=tokens), plan.objective, drawn[largest]) for tokens in BUDGETS},
    )


def _read(base: Base, objective: Objective, rows: Sequence[Encoded]) -> int:
    """How many tokens, padding included, the passes over a minibatch read."""
    groups = parts(base, rows, lambda row: objective.lines([row]))
    if base.capability.trees:
        return sum(len(_planted(objective, group).tokens) for group in groups)
    lines = [[_tokens(line) for line in objective.lines(group)] for group in groups]
    return sum(max(lengths) * len(lengths) for lengths in lines)


def _planted(objective: Objective, rows: Sequence[Encoded]) -> Tree:
    return plant([prompt + answer for prompt, answer in objective.lines(rows)])


def _tokens(line: Line) -> int:
    return sum(map(len, line))


def _length(objective: Objective, row: Encoded) -> int:
    return len(row.prompt) + sum(len(answer) for _, answer in objective.lines([row]))
