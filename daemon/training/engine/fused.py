"""Gated MLPs and norms in one step forth and one back, which keep what they are computed from and nothing else.

A module is recognised by doing the very same with some random rows; what does anything else is left as it is.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from peft import PeftModel

from daemon.training.engine.lowrank import Eased, plain
from daemon.training.engine.packing.attention import exact
from daemon.training.engine.packing.forwards import computed_by

Forward = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def eased(adapted: PeftModel, name: str) -> Iterator[None]:
    """Have the plain LoRA layers of the adapter `name`, gated MLPs and norms trained this way."""
    modules = list(adapted.modules())
    with ExitStack() as around:
        for module in modules:
            if plain(module, name):
                around.enter_context(computed_by(module, Eased(module, name)))
        for module in modules:
            if forward := _gated(module) or _norm(module):
                around.enter_context(computed_by(module, forward))
        yield


class _Gated:
    """down(act(gate) · up) (SwiGLU and its kin, arXiv 2002.05202); kept are gate and up, which one product may make."""

    def __init__(self, mlp: Any) -> None:
        self._mlp, self._otherwise = mlp, mlp.forward
        self.joined = not hasattr(mlp, "gate_proj")
        """Whether gate and up are the halves of one product."""
        self._act = mlp.activation_fn if self.joined else mlp.act_fn

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            found: torch.Tensor = self._otherwise(states)
            return found
        mlp = self._mlp
        kept = (mlp.gate_up_proj(states),) if self.joined else (mlp.gate_proj(states), mlp.up_proj(states))
        output: torch.Tensor = mlp.down_proj.forward.of(self, *kept)
        return output

    def made(self, *sources: torch.Tensor) -> torch.Tensor:
        """act(gate) · up."""
        gate, up = self._parts(sources)
        product: torch.Tensor = self._act(gate) * up
        return product

    def back(self, given: torch.Tensor, *sources: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Gradients of gate and up, or of both in one."""
        gate, up = self._parts(sources)
        with torch.enable_grad():
            opened = gate.detach().requires_grad_()
            active = self._act(opened)
        (to_gate,) = torch.autograd.grad(active, opened, given * up)
        found = (to_gate, active.detach() * given)
        return (torch.cat(found, -1),) if self.joined else found

    def _parts(self, sources: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return sources[0].chunk(2, dim=-1) if self.joined else sources


class _Norm:
    """w x / √(mean x² + ε), or with 1 + w (arXiv 1910.07467); kept are x and the root."""

    def __init__(self, norm: Any, shifted: bool) -> None:
        self._norm, self._otherwise, self._shifted = norm, norm.forward, shifted
        self._epsilon: float = norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            found: torch.Tensor = self._otherwise(values)
            return found
        computed: torch.Tensor = _Normed.apply(values, self._norm.weight, self._epsilon, self._shifted)  # type: ignore[no-untyped-call]
        return computed


class _Normed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, weight: torch.Tensor, epsilon: float, shifted: bool) -> torch.Tensor:
        wide = exact(values)
        root = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(values, root, weight)
        ctx.shifted = shifted
        unit = wide * root
        if shifted:
            return (unit * (1.0 + exact(weight))).to(values.dtype)
        return weight * unit.to(values.dtype)

    @staticmethod
    def backward(ctx: Any, *given: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradient of the values; the weights are frozen."""
        values, root, weight = ctx.saved_tensors
        unit = exact(values) * root
        scaled = exact(given[0]) * (1.0 + exact(weight) if ctx.shifted else exact(weight))
        along = torch.linalg.vecdot(scaled, unit).unsqueeze(-1) / values.shape[-1]
        return scaled.sub_(unit.mul_(along)).mul_(root).to(values.dtype), None, None, None


def _gated(module: Any) -> Forward | None:
    """How to compute a gated MLP whose last layer is eased; None where it is none."""
    names = ("gate_proj", "up_proj", "act_fn"), ("gate_up_proj", "activation_fn")
    if not any(all(hasattr(module, name) for name in (*way, "down_proj")) for way in names):
        return None
    if not isinstance(module.down_proj.forward, Eased):
        return None
    gated = _Gated(module)
    first = module.gate_up_proj if gated.joined else module.gate_proj
    return gated if _alike(module, gated, first.in_features) else None


def _norm(module: Any) -> Forward | None:
    """How to compute a norm by root mean squares; None where it is none."""
    weight = getattr(module, "weight", None)
    if not type(module).__name__.endswith("RMSNorm") or weight is None or weight.requires_grad:
        return None
    ways = (_Norm(module, shifted) for shifted in (False, True))
    return next((way for way in ways if _alike(module, way, module.weight.shape[-1])), None)


def _alike(module: torch.nn.Module, forward: Forward, width: int) -> bool:
    """Whether a module does the same with some random rows."""
    weight = next(module.parameters())
    rows = torch.randn(1, 16, width, generator=torch.Generator().manual_seed(0)).to(weight.device, weight.dtype)
    with torch.enable_grad():  # without gradients both take the module's own way
        return torch.equal(module(rows).detach(), forward(rows).detach())
