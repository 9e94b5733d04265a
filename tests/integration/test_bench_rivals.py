"""Recipes that the default policy is compared with: they are given what their papers give them."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from daemon.training.engine import lora
from daemon.training.engine.base import Base
from daemon.training.engine.report import Reporter
from daemon.training.engine.worker import Worker
from scripts.benchmarks.learning.rivals import RIVALS, Budget, Given, adapter, train
from tests.integration.training_support import CORRECTIONS, UPSTREAM, tiny_base

pytestmark = pytest.mark.filterwarnings(UPSTREAM)
O_LORA = RIVALS["o-lora"]


@pytest.fixture
def base(tmp_path: Path) -> Base:
    return Worker(Reporter(io.StringIO())).base(str(tiny_base(tmp_path / "base")))


def test_o_lora_trains_a_new_layer_on_top_of_what_its_earlier_ones_say(base: Base, tmp_path: Path) -> None:
    given = _given(base, None, tmp_path / "first")
    train(O_LORA, given, Budget(steps=30))
    untouched, hers = _reading(base), str(given.out)
    with lora.loaded(base, hers):
        earlier = _reading(base)
    assert not torch.allclose(untouched, earlier, atol=1e-2)
    with adapter(O_LORA, _given(base, hers, tmp_path / "second")):
        # As it is trained: a new layer that has not learnt anything adds nothing.
        assert torch.allclose(_reading(base, torch.enable_grad), earlier, atol=1e-4)
    assert torch.equal(_reading(base), untouched)


def _given(base: Base, incumbent: str | None, out: Path) -> Given:
    return Given(base, CORRECTIONS, [], incumbent, out, seed=0)


def _reading(base: Base, mode: Callable[[], torch.no_grad | torch.enable_grad] = torch.no_grad) -> torch.Tensor:
    """What comes after each token of some prompt."""
    prompt = base.chat.prompt_ids(CORRECTIONS[0].messages)
    with mode():
        logits: torch.Tensor = base.model(input_ids=torch.tensor([prompt])).logits
    return logits.detach()
