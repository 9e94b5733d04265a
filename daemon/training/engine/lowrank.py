"""A LoRA layer's arithmetic beside a frozen linear one, in one step forth and one back.

PEFT's own casts and copies every activation in half precision; this computes the same from the same weights. It is
used where gradients flow; what only reads a model takes PEFT's way, as the server does.
"""

from typing import Any, Protocol, TypeGuard

import torch
from peft.tuners.lora import Linear
from torch.nn import functional


class Making(Protocol):
    """What a layer's values are made of: that is kept for the way back, and the values are made again from it."""

    def made(self, *sources: torch.Tensor) -> torch.Tensor:
        """The values (…, in)."""

    def back(self, given: torch.Tensor, *sources: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Gradients of the sources from that of the values."""


class Itself:
    """Values that are made of nothing else."""

    def made(self, *sources: torch.Tensor) -> torch.Tensor:
        """The only source."""
        return sources[0]

    def back(self, given: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Its gradient."""
        return (given,)


ITSELF = Itself()


class Eased:
    """What a LoRA layer does with its input: (…, in) to (…, out)."""

    def __init__(self, layer: Linear, name: str) -> None:
        self._layer, self._name, self._otherwise = layer, name, layer.forward

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            found: torch.Tensor = self._otherwise(values)
            return found
        return self.of(ITSELF, values)

    def of(self, making: Making, *sources: torch.Tensor) -> torch.Tensor:
        """The same with the values that are made of the sources, which alone are kept."""
        layer, name = self._layer, self._name
        plain, down, up = layer.get_base_layer(), layer.lora_A[name], layer.lora_B[name]
        frozen = plain.weight, plain.bias
        computed: torch.Tensor = _LowRank.apply(  # type: ignore[no-untyped-call]
            making, frozen, down.weight, up.weight, layer.scaling[name], *sources
        )
        return computed


class _LowRank(torch.autograd.Function):
    """y = x Wᵀ + b + s (x Aᵀ) Bᵀ with W and b frozen (arXiv 2106.09685 §4.1), in the precision of x."""

    @staticmethod
    def forward(
        ctx: Any,
        making: Making,
        frozen: tuple[torch.Tensor, torch.Tensor | None],
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
        *sources: torch.Tensor,
    ) -> torch.Tensor:
        """Of x (…, in), made of the sources; frozen: W (out, in) and b; down: A (rank, in); up: B (out, rank)."""
        values = making.made(*sources)
        flat, (weight, bias) = values.flatten(0, -2), frozen
        low, high = down.to(values.dtype), (up * scale).to(values.dtype)
        inner = flat @ low.T
        output = functional.linear(flat, weight, bias).addmm_(inner, high.T)
        ctx.save_for_backward(inner, low, high, *sources)
        ctx.making, ctx.weight, ctx.scale, ctx.precision = making, weight, scale, down.dtype
        return output.view(*values.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *given: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of both low-rank matrices and, where they are wanted, of the sources."""
        inner, low, high, *sources = ctx.saved_tensors
        outer = given[0].flatten(0, -2)
        middle = outer @ high
        values = ctx.making.made(*sources)
        to_down = (middle.T @ values.flatten(0, -2)).to(ctx.precision)
        to_up = (outer.T @ inner).to(ctx.precision).mul_(ctx.scale)
        to_sources: tuple[torch.Tensor | None, ...] = (None,) * len(sources)
        if any(ctx.needs_input_grad[-len(sources) :]):
            to_values = (outer @ ctx.weight).addmm_(middle, low).view(values.shape)
            to_sources = ctx.making.back(to_values, *sources)
        return None, None, to_down, to_up, None, *to_sources


def plain(layer: torch.nn.Module, name: str) -> TypeGuard[Linear]:
    """Whether a layer is LoRA on a frozen linear module and nothing else."""
    return (
        isinstance(layer, Linear)
        and type(layer.get_base_layer()) is torch.nn.Linear
        and name in layer.lora_A
        and name not in layer.lora_variant
        and isinstance(layer.lora_dropout[name], torch.nn.Identity)
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
        and not layer.get_base_layer().weight.requires_grad
    )
