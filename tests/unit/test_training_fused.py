"""Which norms are computed in one step forth and back: those that do the very same, and no others."""

import torch
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from daemon.training.engine.fused import _norm


class CentredRMSNorm(LlamaRMSNorm):
    """What has the name and does something else."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        centred: torch.Tensor = super().forward(hidden_states - hidden_states.mean(-1, keepdim=True))
        return centred


def test_a_norm_by_root_mean_squares_is_told_from_what_only_has_the_name() -> None:
    known, other = LlamaRMSNorm(32).requires_grad_(False), CentredRMSNorm(32).requires_grad_(False)
    assert _norm(known) is not None and _norm(other) is None


def test_a_norm_without_weights_and_one_whose_weights_are_trained_are_left_as_they_are() -> None:
    assert _norm(Gemma3nRMSNorm(32, with_scale=False)) is None
    assert _norm(LlamaRMSNorm(32)) is None
