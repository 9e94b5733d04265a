"""A LoRA layer's arithmetic beside a frozen linear one, in one step forth and one back.

PEFT's own casts and copies every activation in half precision; this computes the same from the same weights. It is
used where gradients flow; what only reads a model takes PEFT's way, as the server does.
"""

from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import Linear
from torch.nn import functional


def ease(adapted: PeftModel, name: str) -> None:
    """Have the plain LoRA layers of the adapter `name` trained this way."""
    for module in adapted.modules():
        if isinstance(module, Linear) and _plain(module, name):
            module.forward = _Forward(module, name, module.forward)  # type: ignore[method-assign,assignment]


class _Forward:
    """What a layer does with its input: (…, in) to (…, out)."""

    def __init__(self, layer: Linear, name: str, otherwise: Any) -> None:
        self._layer, self._name, self._otherwise = layer, name, otherwise

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            found: torch.Tensor = self._otherwise(values)
            return found
        layer, name = self._layer, self._name
        plain, down, up = layer.get_base_layer(), layer.lora_A[name], layer.lora_B[name]
        computed: torch.Tensor = _LowRank.apply(  # type: ignore[no-untyped-call]
            values, plain.weight, plain.bias, down.weight, up.weight, layer.scaling[name]
        )
        return computed


class _LowRank(torch.autograd.Function):
    """y = x Wᵀ + b + s (x Aᵀ) Bᵀ with W and b frozen (arXiv 2106.09685 §4.1), in the precision of x."""

    @staticmethod
    def forward(  # noqa: PLR0913 (autograd hands tensors over one by one)
        ctx: Any,
        values: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """values: (…, in); weight: (out, in); down: (rank, in); up: (out, rank)."""
        flat = values.flatten(0, -2)
        low, high = down.to(values.dtype), (up * scale).to(values.dtype)
        inner = flat @ low.T
        output = functional.linear(flat, weight, bias).addmm_(inner, high.T)
        ctx.save_for_backward(values, weight, inner, low, high)
        ctx.scale, ctx.precision = scale, down.dtype
        return output.view(*values.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *given: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of the values, where they are wanted, and of both low-rank matrices."""
        values, weight, inner, low, high = ctx.saved_tensors
        flat, outer = values.flatten(0, -2), given[0].flatten(0, -2)
        middle = outer @ high
        to_down = (middle.T @ flat).to(ctx.precision)
        to_up = (outer.T @ inner).to(ctx.precision).mul_(ctx.scale)
        to_values = None
        if ctx.needs_input_grad[0]:
            to_values = (outer @ weight).addmm_(middle, low).view(values.shape)
        return to_values, None, None, to_down, to_up, None


def _plain(layer: Linear, name: str) -> bool:
    """Whether a layer is LoRA on a linear module and nothing else."""
    return (
        type(layer.get_base_layer()) is torch.nn.Linear
        and name in layer.lora_A
        and name not in layer.lora_variant
        and isinstance(layer.lora_dropout[name], torch.nn.Identity)
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
        and not layer.get_base_layer().weight.requires_grad
    )
