"""Other ways to learn, as published or as done by hand, in the engine's own terms: same base, shape and data."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import torch
from peft import PeftModel

from daemon.training.engine import lora
from daemon.training.engine.anchors import Anchor, unrelated
from daemon.training.engine.base import Base
from daemon.training.engine.batches import Draw, Encoded, encode
from daemon.training.engine.job import Example, Group, Recipe
from daemon.training.engine.objectives import Objective, Share, drift, loss
from daemon.training.engine.packing.passes import token_losses

HELD, PULL = 32, 3.0
"""Anchors held at a step, and the weight of their distance, as first measured."""
EARLIER, JOINED = "earlier", "joined"
"""PEFT's names of the adapter that O-LoRA leaves alone, and of both together."""
Penalty = Callable[[PeftModel], torch.Tensor]


@dataclass(frozen=True)
class Budget:
    """How much is trained: so many steps, or so many tokens; who stops first stops."""

    steps: int | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class Rival:
    """One recipe for the next layer of a trait."""

    about: str
    rows: str = "batch"
    """"batch", "union" of all that is due, or "replay": the batch and half as many earlier ones at each step."""
    continues: bool = True
    """From the last layer, not from the base."""
    anchors: str = ""
    """Nothing, "loss": answered like corrections, or "kl": held."""
    epochs: int | None = None
    """Instead of a budget."""
    rate: float = 1e-3
    batch: int = 4
    orthogonal: float = 0.0
    """Weight of O-LoRA's penalty on what a new layer's inputs share with those of earlier ones."""


RIVALS = {
    "requirement": Rival("the requirement's numbers: 3 epochs, 2e-4, batch after batch", epochs=3, rate=2e-4),
    "sequential": Rival("20 epochs, 1e-3, batch after batch from the last layer", epochs=20),
    "replay": Rival("from the last layer, half of each step replayed (sequential LoRA with replay)", "replay"),
    "o-lora": Rival("each batch a layer orthogonal to the earlier ones (arXiv 2310.14152)", orthogonal=0.5),
    "union": Rival("from the base, over all corrections so far", "union", continues=False),
    "union-anchors": Rival("the same, the base's own answers among them", "union", False, "loss"),
    "union-kl": Rival("the same, the base's own answers held by KL", "union", False, "kl"),
    "continue-kl": Rival("the same, from the last layer", "union", True, "kl"),
}


@dataclass(frozen=True)
class Given:
    """What a recipe has to work with."""

    base: Base
    examples: Sequence[Example]
    """The batch, and as history what is due of earlier ones."""
    made_up: Sequence[Anchor]
    incumbent: str | None
    out: Path
    seed: int


@dataclass(frozen=True)
class Spent:
    """What a layer took."""

    steps: int
    tokens: int


def train(rival: Rival, given: Given, budget: Budget) -> Spent:
    """Write the next layer into `given.out`."""
    rows, unusable = encode(given.base, given.examples)
    assert not unusable, unusable
    batch = [row for row in rows if row.example.group is Group.BATCH]
    history = [row for row in rows if row.example.group is Group.HISTORY]
    learnt = rows if rival.rows == "union" else batch
    if rival.epochs:
        budget = Budget(steps=rival.epochs * -(-len(learnt) // rival.batch))
    anchors = unrelated(given.made_up, rows) if rival.anchors else []
    minibatches = _minibatches(rival, learnt, history, given.seed)
    with adapter(rival, given) as (adapted, penalty):
        spent = _practise(given.base, _Practice(rival, adapted, minibatches, anchors, penalty), budget)
        if EARLIER in adapted.peft_config:
            # Served as one: the new layer beside all earlier ones.
            adapted.add_weighted_adapter([lora.NAME, EARLIER], [1.0, 1.0], JOINED, combination_type="cat")
            adapted.save_pretrained(str(given.out), selected_adapters=[JOINED])
            for file in (given.out / JOINED).iterdir():
                file.rename(given.out / file.name)
        else:
            lora.save(adapted, str(given.base.folder), given.out)
    return spent


@dataclass(frozen=True)
class _Practice:
    rival: Rival
    adapted: PeftModel
    minibatches: Iterator[list[Encoded]]
    anchors: Sequence[Anchor]
    penalty: Penalty | None


def _practise(base: Base, of: _Practice, budget: Budget) -> Spent:
    """The plain loop: AdamW at one rate, gradients clipped at 1."""
    rival = of.rival
    weights = [weight for weight in of.adapted.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rival.rate, weight_decay=0.0)
    held = Draw(range(len(of.anchors)), HELD, Random(0))
    objective, tokens = Objective(), 0
    for step in count(1):
        rows = next(of.minibatches)
        lines = objective.lines(rows)
        fallen = loss(objective, rows, token_losses(base, lines), {}, Share.of(rows, objective))
        known = [of.anchors[at].reference for at in held.next()]
        if known and rival.anchors == "kl":
            fallen = fallen + PULL * drift(base, known).sum() / sum(len(one.line[1]) for one in known)
        elif known:
            fallen = fallen + token_losses(base, [one.line for one in known]).losses.mean()
        if of.penalty:
            fallen = fallen + rival.orthogonal * of.penalty(of.adapted)
        fallen.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += sum(len(prompt) + len(answer) for prompt, answer in [*lines, *(one.line for one in known)])
        if (budget.steps and step >= budget.steps) or (budget.tokens and tokens >= budget.tokens):
            return Spent(step, tokens)
    raise AssertionError("a budget ends")


def _minibatches(
    rival: Rival, learnt: Sequence[Encoded], history: Sequence[Encoded], seed: int
) -> Iterator[list[Encoded]]:
    random = Random(seed)
    draw = Draw(range(len(learnt)), rival.batch, random)
    replayed = Draw(range(len(history)), rival.batch // 2, random)
    while True:
        rows = [learnt[at] for at in draw.next()]
        yield [*rows, *(history[at] for at in replayed.next())] if rival.rows == "replay" else rows


@contextmanager
def adapter(rival: Rival, given: Given) -> Iterator[tuple[PeftModel, Penalty | None]]:
    """What is trained, on the base, with what is added to its loss."""
    goes_on = given.incumbent if rival.continues else None
    if not rival.orthogonal:
        with (
            lora.loaded(given.base, goes_on, True)
            if goes_on
            else lora.fresh(given.base, Recipe(seed=given.seed)) as one
        ):
            yield one, None
        return
    with lora.fresh(given.base, Recipe(seed=given.seed)) as adapted:
        if not goes_on:
            yield adapted, None
            return
        adapted.load_adapter(goes_on, EARLIER)
        with _within(adapted, EARLIER):
            yield adapted, _overlap


@contextmanager
def _within(adapted: PeftModel, name: str) -> Iterator[None]:
    """Have the base's own weights do what an adapter does: while one is trained, layers know no other."""
    kept = []
    layers: Iterator[Any] = adapted.modules()
    for layer in layers:
        if name in getattr(layer, "lora_A", {}):
            weight = layer.get_base_layer().weight.data
            kept.append((weight, weight.clone()))
            weight += layer.get_delta_weight(name)
    try:
        yield
    finally:
        for weight, before in kept:
            weight.copy_(before)


def _overlap(adapted: PeftModel) -> torch.Tensor:
    """How much the new layer reads of what earlier ones read: the sum of |A Aᵀ| between them."""
    parts = []
    for module in adapted.modules():
        inputs = getattr(module, "lora_A", {})
        if EARLIER in inputs:
            parts.append(torch.mm(inputs[lora.NAME].weight, inputs[EARLIER].weight.detach().T).abs().sum())
    return torch.stack(parts).sum()
