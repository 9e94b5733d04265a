"""Layers computed again on the way back: that they are, to the same gradients, and that nothing of it stays."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from daemon.training.engine import lora
from daemon.training.engine.base import Base, load_base
from daemon.training.engine.job import Recipe
from daemon.training.engine.packing.capability import examined
from daemon.training.engine.packing.passes import Line, token_losses
from daemon.training.engine.packing.recompute import recomputable
from tests.integration.training_support import DROPPING, UPSTREAM, tiny_base

pytestmark = pytest.mark.filterwarnings(UPSTREAM)
LINES: list[Line] = [([5, 6, 7, 8], [9, 10, 11]), ([5, 6, 7, 12], [13, 14])]


def gradients(base: Base) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of a new adapter whose every part matters."""
    with lora.fresh(base, Recipe(rank=4, alpha=8)) as adapted:
        torch.manual_seed(0)
        for parameter in lora.parameters(adapted):
            parameter.data = 0.1 * torch.randn(parameter.shape)
        loss = token_losses(base, LINES).losses.mean()
        loss.backward()  # type: ignore[no-untyped-call]
        trained = adapted.named_parameters()
        return float(loss.detach()), {name: each.grad for name, each in trained if each.grad is not None}


@pytest.mark.parametrize("family", ["llama", *DROPPING])
def test_layers_are_computed_again_and_nothing_is_dropped_out_or_left_behind(family: str, tmp_path: Path) -> None:
    base = examined(load_base(str(tiny_base(tmp_path / "base", family))))
    assert base.capability.recompute
    loss, once = gradients(base)

    calls: list[torch.nn.Module] = []
    layers = recomputable(base.model)
    hooks = [next(layer.children()).register_forward_hook(lambda part, *_: calls.append(part)) for layer in layers]
    found, twice = gradients(replace(base, recompute=True))
    for hook in hooks:
        hook.remove()
    assert len(calls) >= 2 * len(layers)
    assert found == pytest.approx(loss, abs=1e-6)
    assert once.keys() == twice.keys() and len(once) >= 8
    assert all(torch.allclose(once[name], twice[name], atol=1e-6) for name in once)

    assert not any(module.training or module._forward_hooks for module in base.model.modules())
    assert not any("forward" in module.__dict__ for module in base.model.modules())
    assert not base.model(torch.tensor([[5, 6, 7]])).logits.requires_grad


def test_a_model_whose_layers_are_not_made_for_it_keeps_what_it_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base(str(tiny_base(tmp_path / "base")))
    monkeypatch.setattr("daemon.training.engine.packing.capability.recomputable", lambda model: [])
    assert not examined(base).capability.recompute
