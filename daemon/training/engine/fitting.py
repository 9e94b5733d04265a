"""How a batch is trained on a loaded base so that it fits into memory."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch

from daemon.training.engine.anchors import ANSWER, QUESTION, Anchor
from daemon.training.engine.base import Base
from daemon.training.engine.batches import Draw, Encoded
from daemon.training.engine.decode import decoded
from daemon.training.engine.evaluate import answer_room, compared
from daemon.training.engine.job import Recipe
from daemon.training.engine.loop import Material
from daemon.training.engine.machine import all_memory, free_memory
from daemon.training.engine.memory import (
    BUDGETS,
    LEAST,
    TILE,
    TOKENS,
    TYPICAL,
    Fit,
    NothingFits,
    Room,
    Shape,
    Work,
    fastest,
    peak,
)
from daemon.training.engine.packing.passes import Line, grouped, head, length
from daemon.training.engine.packing.tree import Tree, plant
from daemon.training.engine.policy import Plan, anchor_count

AHEAD = 32
"""Minibatches that are drawn at least, if there are as many: of epochs that come later, some are larger."""
SLACK = 1.06
"""By how much a pass may be larger than the largest planned; well within what is kept free."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """How a batch is trained, and the most bytes that it will take."""

    fit: Fit
    peak: int


def fitted(base: Base, asked: Work, limit: float, can_quantise: bool) -> Fitted:
    """How to do some work so that it fits into what is free; raises NothingFits.

    limit: GiB that the process may use, 0: no limit. can_quantise: whether the base may be had in four bits.
    """
    shape = Shape.of(base.folder)
    way = fastest(shape, asked, _as_loaded(base), room(base.device, limit), can_quantise)
    # Later minibatches may be a little larger than those that were planned with. If they share much less, they are read
    # in more passes.
    most = max(min(way.tokens, asked.tokens * SLACK), asked.longest)
    return Fitted(replace(way, tokens=int(most)), peak(shape, asked, way))


def beyond(
    base: Base, rows: Sequence[Encoded], trained: Collection[str], plan: Plan, told: Recipe, limit: float
) -> dict[str, NothingFits]:
    """Which rows this machine has no memory for, by id, even if nothing else ran on it; base in four bits included.

    trained: ids of those that are trained; the others are only read. Where what is usual does not fit, it is no row's
    fault, and none is named.
    """
    shape, best, there = Shape.of(base.folder), _as_loaded(base), _room_alone(base.device, limit)

    def refused(asked: Work) -> NothingFits | None:
        try:
            fastest(shape, asked, best, there, True)
        except NothingFits as error:
            return error.with_traceback(None)  # the traceback would keep the base alive
        return None

    if refused(replace(TYPICAL, rank=told.rank)):
        return {}
    found: dict[str, NothingFits] = {}
    for row in rows:
        asked = work(base, Material([row]), [row], plan, told)
        if row.example.id not in trained:
            asked = replace(asked, tokens=1, longest=1, answers=1)
        if why := refused(asked):
            found[row.example.id] = why
    return found


def base_needs_four_bits(
    folder: Path, dtype: torch.dtype, device: torch.device, limit: float, can_quantise: bool
) -> bool:
    """Whether a base fits beside a batch only with its weights in four bits, and may have them; raises NothingFits."""
    shape, best = Shape.of(folder), Fit(dtype.itemsize, accelerated=device.type == "cuda")
    there = room(device, limit)
    try:
        return fastest(shape, TYPICAL, best, there, can_quantise).four_bits
    except NothingFits as usual:
        # Smaller batches may fit all the same; each says when it comes.
        try:
            return fastest(shape, LEAST, best, there, can_quantise).four_bits
        except NothingFits:
            raise usual from None  # what it names is worth asking for, and enough for most batches


def room(device: torch.device, limit: float) -> Room:
    """Of the memory that models lie in here, what this process holds already included."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return Room(free + torch.cuda.memory_reserved())
    return Room(free_memory(limit), limit)


def _room_alone(device: torch.device, limit: float) -> Room:
    """What there would be if nothing else ran here."""
    if device.type == "cuda":
        return Room(torch.cuda.mem_get_info()[1])
    return Room(all_memory(limit), limit)


def _as_loaded(base: Base) -> Fit:
    """The fastest way with the base as it is."""
    return Fit(
        base.model.dtype.itemsize,
        four_bits=base.four_bits,
        accelerated=base.device.type == "cuda",
        can_recompute=base.capability.recompute,
    )


def work(base: Base, material: Material, every: Sequence[Encoded], plan: Plan, told: Recipe) -> Work:
    """What the first minibatches, drawn here as they will be, and the questions about `every` row ask for."""
    rows, objective = material.rows, plan.objective
    draw = Draw(range(len(rows)), plan.batch_size, Random(plan.seed), material.kin)
    epoch = -(-len(rows) // plan.batch_size)
    drawn = [[rows[at] for at in draw.next()] for _ in range(max(epoch, min(AHEAD, plan.steps)))]
    units = [[objective.lines([row]) for row in part] for part in drawn]
    sizes = [_read(base, each) for each in units]
    largest = max(range(len(drawn)), key=lambda at: sizes[at])
    depths = _planted(units[largest]).depths
    questions = [line for row in every for line in compared(row)]
    said = decoded(base, [row.prompt for row in every], [answer_room(row) for row in every])
    probed, spoken = _read(base, [[line] for line in questions]), sum(len(answer) for _, answer in questions)
    answers = max(sum(len(answer) for unit in part for _, answer in unit) for part in units)
    made_up = anchor_count(told.anchors, base.parameters, base.device.type) * (QUESTION + ANSWER)
    return Work(
        tokens=sizes[largest],
        longest=max(_alone(base, unit) for part in units for unit in part),
        seen=sum(depths) / len(depths) + TILE / 2,  # all rows of a tile are given what any of them sees
        answers=answers,
        whole=_whole(base, told, min(TOKENS, max(sizes[largest], probed)), max(answers, min(TOKENS, spoken))),
        rank=told.rank,
        minibatches=epoch,
        probed=probed,
        longest_read=max(map(length, questions)),
        said=spoken,
        decoded=max(said, min(made_up, 2 * TOKENS)),
        read={tokens: _read(base, units[largest], tokens) for tokens in BUDGETS},
    )


def _whole(base: Base, told: Recipe, read: int, answers: int) -> int:
    """Of how many tokens the logits exist at once because they cannot be computed in parts; 0: they can.

    read, answers: most tokens of a pass, and of the answers in one.
    """
    if not base.capability.head:
        return read
    if isinstance(told.target_modules, str):  # "all-linear" leaves the head out
        return 0
    last = head(base)
    names = {name.rpartition(".")[2] for name, module in base.model.named_modules() if module is last}
    return answers if names & {target.rpartition(".")[2] for target in told.target_modules} else 0


def holding(base: Base, asked: Work, anchors: Sequence[Anchor], size: int) -> Work:
    """The same with so many anchors beside each minibatch."""
    longest = sorted((anchor.reference.line for anchor in anchors), key=length, reverse=True)[:size]
    more = _read(base, [[line] for line in longest])
    return replace(
        asked,
        tokens=asked.tokens + more,
        answers=asked.answers + sum(len(answer) for _, answer in longest),
        read={budget: tokens + more for budget, tokens in asked.read.items()},
    )


def _read(base: Base, units: Sequence[list[Line]], tokens: int = 1 << 40) -> int:
    """How many tokens, padding included, passes of at most so many read of some units, which must not be parted."""
    groups = list(grouped(base, units, lambda unit: unit, tokens))
    if base.capability.trees:
        return sum(len(_planted(group).tokens) for group in groups)
    lines = [[length(line) for unit in group for line in unit] for group in groups]
    return sum(max(lengths) * len(lengths) for lengths in lines)


def _planted(units: Sequence[list[Line]]) -> Tree:
    return plant([prompt + answer for unit in units for prompt, answer in unit])


def _alone(base: Base, unit: list[Line]) -> int:
    """Tokens of a pass over one unit, whose lines share their prompt."""
    if base.capability.trees:
        return len(unit[0][0]) + sum(len(answer) for _, answer in unit)
    return max(map(length, unit)) * len(unit)
