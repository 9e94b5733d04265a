"""The last layer's MLP, the largest part of it, computed only for the tokens whose output is used."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from transformers import PreTrainedModel

from daemon.training.engine.base import Base
from daemon.training.engine.packing.forwards import computed_by
from daemon.training.engine.packing.shapes import filled, step


class _Narrowed:
    """An MLP's forward at some tokens of a pass, zero elsewhere: each of its rows depends on that row alone."""

    def __init__(self, whole: Any, at: torch.Tensor) -> None:
        self._whole = whole
        self._at = at

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        rows = states.flatten(0, -2)
        at = filled(torch.unique(self._at), len(rows), step(rows.dtype))
        found = self._whole(rows.index_select(0, at)[None])
        if not isinstance(found, torch.Tensor):
            raise ValueError("the last MLP says more than its output: of its experts, which only the whole can say")
        return torch.zeros_like(rows).index_copy(0, at, found[0]).view_as(states)


def narrowed(base: Base, at: torch.Tensor) -> AbstractContextManager[None]:
    """Have a model's last MLP compute only what is at these places of a pass, its rows laid end to end."""
    mlp = _last(base)
    return nullcontext() if mlp is None else computed_by(mlp, _Narrowed(mlp.forward, at))


def narrowed_as_now(base: Base) -> AbstractContextManager[None]:
    """Have it compute later what it computes now."""
    mlp = _last(base)
    return nullcontext() if mlp is None else computed_by(mlp, mlp.forward)


def last_mlp(model: PreTrainedModel) -> str:
    """The MLP that comes last in a model's decoder, as most families name it; empty where there is none."""
    decoder = model.get_decoder()  # type: ignore[no-untyped-call]
    return next((name for name, _ in reversed(list(decoder.named_modules())) if name.endswith(".mlp")), "")


def _last(base: Base) -> torch.nn.Module | None:
    if not base.capability.narrow:
        return None
    decoder: torch.nn.Module = base.model.get_decoder()  # type: ignore[no-untyped-call]
    return decoder.get_submodule(base.capability.narrow)
