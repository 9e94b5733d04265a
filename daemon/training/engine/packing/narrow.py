"""The last layer's MLP, the largest part of it, computed only for the tokens whose output is used."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from transformers import PreTrainedModel

from daemon.training.engine.packing.shapes import filled, step

_FOUND: weakref.WeakKeyDictionary[PreTrainedModel, Callable[[], torch.nn.Module | None]] = weakref.WeakKeyDictionary()
"""By model, its last MLP: to look through all modules takes a part of a decoding step."""


class _Narrowed:
    """An MLP's forward at some tokens of a pass, zero elsewhere: each of its rows depends on that row alone."""

    def __init__(self, whole: Any, at: torch.Tensor) -> None:
        self._whole = whole
        self._at = at

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        rows = states.flatten(0, -2)
        at = filled(torch.unique(self._at), len(rows), step(rows.dtype))
        found = self._whole(rows.index_select(0, at)[None])
        if not isinstance(found, torch.Tensor):  # with what it says of its experts, which only the whole can say
            whole: torch.Tensor = self._whole(states)
            return whole
        return torch.zeros_like(rows).index_copy(0, at, found[0]).view_as(states)


def narrowed(model: PreTrainedModel, at: torch.Tensor) -> AbstractContextManager[None]:
    """Have a model's last MLP compute only what is at these places of a pass, its rows laid end to end."""
    mlp = _last(model)
    return nullcontext() if mlp is None else _with(mlp, _Narrowed(mlp.forward, at))


def narrowed_as_now(model: PreTrainedModel) -> AbstractContextManager[None]:
    """Have it compute later what it computes now."""
    mlp = _last(model)
    return nullcontext() if mlp is None else _with(mlp, mlp.forward)


@contextmanager
def _with(mlp: torch.nn.Module, forward: Any) -> Iterator[None]:
    before = mlp.__dict__.get("forward")
    mlp.forward = forward
    try:
        yield
    finally:
        if before is None:
            del mlp.forward
        else:
            mlp.forward = before


def _last(model: PreTrainedModel) -> torch.nn.Module | None:
    """The MLP that comes last, as most families name it."""
    if model not in _FOUND:
        decoder = model.get_decoder()  # type: ignore[no-untyped-call]
        found = [module for name, module in decoder.named_modules() if name.endswith(".mlp")]
        _FOUND[model] = weakref.ref(found[-1]) if found else lambda: None
    return _FOUND[model]()
