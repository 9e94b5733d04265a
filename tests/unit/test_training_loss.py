"""Losses against torch's own, and batches against sequences one by one."""

from random import Random

import pytest
import torch
from torch.nn import functional

from daemon.training.engine.base import Base, load_base
from daemon.training.engine.batches import batch, chunks, shuffled
from daemon.training.engine.loss import TokenLosses, answer_logits, divergence, token_losses, weighted
from tests.integration.training_support import tiny_base

PAIRS = [([5, 6, 7, 8], [9, 10]), ([11], [12, 13, 14]), ([5, 6], [7])]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """Of a family with absolute positions, which padding could shift."""
    return load_base(str(tiny_base(tmp_path_factory.mktemp("tiny") / "base", "gpt2")))


def alone(base: Base, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Logits (answer tokens, vocabulary) of one unpadded sequence."""
    with torch.no_grad():
        logits: torch.Tensor = base.model(torch.tensor([prompt + answer])).logits
    return logits[0, len(prompt) - 1 : -1]


def test_padding_changes_nothing_and_prompts_have_no_loss(base: Base) -> None:
    padded = batch(base, PAIRS)
    with torch.no_grad():
        tokens = token_losses(answer_logits(base.model, padded), padded)
    assert padded.said.sum(1).tolist() == [2, 3, 1]
    for row, (prompt, answer) in enumerate(PAIRS):
        logits = alone(base, prompt, answer)
        expected = functional.cross_entropy(logits, torch.tensor(answer), reduction="none")
        assert torch.allclose(tokens.losses[row, -len(answer) :], expected, atol=1e-5)
        assert not tokens.losses[row, : -len(answer)].any()
        others = logits.clone()
        others[torch.arange(len(answer)), answer] = -torch.inf
        lead = logits[torch.arange(len(answer)), answer] - others.amax(1)
        assert torch.allclose(tokens.leads[row, -len(answer) :], lead, atol=1e-5)


def test_weights_multiply_and_tokens_that_lead_by_enough_count_no_more() -> None:
    padded_said = torch.tensor([[True, True], [False, True]])
    tokens = TokenLosses(torch.tensor([[1.0, 2.0], [0.0, 4.0]]), torch.tensor([[3.0, 1.0], [0.0, 1.9]]), padded_said)
    weights = torch.tensor([2.0, 0.5])
    assert weighted(tokens, weights, None).item() == 2 * 3 + 0.5 * 4
    assert weighted(tokens, weights, 2.0).item() == 2 * 2 + 0.5 * 4
    assert weighted(tokens, weights, 1.5).item() == 2 * 2


def test_divergence_is_kl_when_every_token_is_kept_and_zero_for_the_same_model() -> None:
    generator = torch.Generator().manual_seed(1)
    theirs, ours = (torch.randn(2, 3, 8, generator=generator) for _ in range(2))
    said = torch.tensor([[True, True, True], [False, True, True]])
    best = theirs.log_softmax(-1).topk(7, dim=-1)
    kl = functional.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    assert torch.allclose(divergence(ours, best.values, best.indices, said), (kl * said).sum(), atol=1e-4)
    assert divergence(theirs, best.values, best.indices, said).abs() < 1e-5


def test_divergence_over_few_tokens_still_sees_the_rest_move() -> None:
    theirs = torch.tensor([[[2.0, 1.0, 0.0, 0.0]]])
    ours = torch.tensor([[[2.0, 1.0, 3.0, 3.0]]])
    best = theirs.log_softmax(-1).topk(2, dim=-1)
    assert divergence(ours, best.values, best.indices, torch.tensor([[True]])) > 0.5


def test_chunks_hold_everything_once_within_the_budget() -> None:
    lengths = [Random(3).randrange(1, 50) for _ in range(40)]
    groups = list(chunks(range(40), lambda at: lengths[at], 100))
    assert sorted(at for group in groups for at in group) == list(range(40))
    assert all(max(lengths[at] for at in group) * len(group) <= 100 for group in groups)
    assert list(chunks([7], lambda at: 1000, 100)) == [[7]]


def test_minibatches_visit_every_item_once_per_epoch_in_a_new_order() -> None:
    batches = shuffled(range(10), 4, Random(0))
    epochs = [[item for _ in range(3) for item in next(batches)] for _ in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]
