"""What an adapter adds where nothing is to change: over inputs that the base's modules usually get.

An answer that an anchor shows can be held; what no anchor shows drifts all the same. But it comes through the same
modules, whose inputs lie in few directions: what is added along these is what anything else would notice.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from peft import PeftModel

from daemon.training.engine import lora
from daemon.training.engine.anchors import Anchor
from daemon.training.engine.base import Base
from daemon.training.engine.memory import INPUTS
from daemon.training.engine.packing.passes import answer_states, micro_batches


@dataclass(frozen=True, slots=True, eq=False)
class Usual:
    """One module, with some of its usual inputs, (INPUTS, in), and the mean square of what it makes of them."""

    layer: Any
    inputs: torch.Tensor
    output: float

    def added(self) -> torch.Tensor:
        """Mean square of what the adapter adds, in parts of the module's own."""
        down, up = self.layer.lora_A[lora.NAME].weight, self.layer.lora_B[lora.NAME].weight
        inner = self.inputs.to(down.dtype) @ down.T
        # |B z|² = zᵀ (BᵀB) z: so no outputs are made.
        squares = (inner @ (up.T @ up)).mul(inner).sum()
        found: torch.Tensor = squares * (self.layer.scaling[lora.NAME] ** 2 / (len(inner) * self.output))
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Footprint:
    """All modules that an adapter changes."""

    modules: Sequence[Usual] = ()

    def size(self) -> torch.Tensor:
        """The mean over the modules of what is added, in parts of what is there."""
        return torch.stack([module.added() for module in self.modules]).mean()


@torch.no_grad()
def footprint(base: Base, adapted: PeftModel, anchors: Sequence[Anchor], alive: Callable[[], None]) -> Footprint:
    """Where an adapter would be noticed, seen while the base itself reads some anchors."""
    random = Random(0)
    modules = [layer for layer in adapted.modules() if _plain(layer)]
    kept: list[list[torch.Tensor]] = [[] for _ in modules]
    squares: list[list[float]] = [[] for _ in modules]
    groups = list(micro_batches(base, anchors, lambda anchor: [anchor.reference.line]))
    each = -(-2 * INPUTS // max(1, len(groups)))
    for group in groups:
        with adapted.disable_adapter(), _heard(modules, _Ear(kept, squares, each, random)):
            answer_states(base, [anchor.reference.line for anchor in group])
        alive()
    found = zip(modules, kept, squares, strict=True)
    return Footprint([_usual(layer, torch.cat(rows), outputs, random) for layer, rows, outputs in found if rows])


@dataclass(frozen=True, slots=True, eq=False)
class _Ear:
    """Keeps some inputs of each module in a pass, and how large its outputs are."""

    kept: list[list[torch.Tensor]]
    squares: list[list[float]]
    each: int
    random: Random

    def hear(self, at: int, given: torch.Tensor, made: torch.Tensor) -> None:
        rows = given.flatten(0, -2)
        if not len(rows):
            return  # an expert that nothing was sent to
        some = self.random.sample(range(len(rows)), min(self.each, len(rows)))
        self.kept[at].append(rows[some])
        self.squares[at].append(float(made.flatten(0, -2).float().square().sum(-1).mean()))


@contextmanager
def _heard(modules: Sequence[Any], ear: _Ear) -> Iterator[None]:
    def hook(at: int) -> Callable[..., None]:
        return lambda _, given, made: ear.hear(at, given[0], made)

    hooks = [module.register_forward_hook(hook(at)) for at, module in enumerate(modules)]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


def _usual(layer: Any, rows: torch.Tensor, squares: Sequence[float], random: Random) -> Usual:
    some = random.sample(range(len(rows)), min(INPUTS, len(rows)))
    return Usual(layer, rows[some].clone(), max(1e-12, sum(squares) / len(squares)))


def _plain(layer: Any) -> bool:
    """Whether a module is low rank beside a product of its input: what PEFT does to anything else adds otherwise."""
    held = getattr(layer, "lora_A", {})
    return lora.NAME in held and isinstance(held[lora.NAME], torch.nn.Linear)
