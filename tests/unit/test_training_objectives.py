"""What counts in a loss, and what a reference tells of a change."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from daemon.training.engine.base import Base, load_base
from daemon.training.engine.batches import Encoded
from daemon.training.engine.job import Example, Group
from daemon.training.engine.objectives import (
    Objective,
    Share,
    divergence,
    drift,
    drift_of,
    loss,
    mean_drift,
    references,
)
from daemon.training.engine.packing.capability import examined
from daemon.training.engine.packing.passes import TokenLosses, answer_states, losses_of, token_losses
from tests.integration.training_support import tiny_base

LINES = [([5, 6, 7, 8], [9, 10]), ([11], [12, 13, 14]), ([5, 6], [7])]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """Of a family with absolute positions, which padding could shift."""
    return load_base(str(tiny_base(tmp_path_factory.mktemp("tiny") / "base", "gpt2")))


@pytest.mark.parametrize("trees", [False, True])
def test_every_answer_token_has_the_loss_and_the_lead_of_its_sequence_alone(base: Base, trees: bool) -> None:
    with torch.no_grad():
        tokens = token_losses(examined(base) if trees else base, LINES)
    assert tokens.lines.tolist() == [0, 0, 1, 1, 1, 2]
    for line, (prompt, answer) in enumerate(LINES):
        with torch.no_grad():
            logits = base.model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        expected = functional.cross_entropy(logits, torch.tensor(answer), reduction="none")
        assert torch.allclose(tokens.losses[tokens.lines == line], expected, atol=1e-5)
        others = logits.clone()
        others[torch.arange(len(answer)), answer] = -torch.inf
        lead = logits[torch.arange(len(answer)), answer] - others.amax(1)
        assert torch.allclose(tokens.leads[tokens.lines == line], lead, atol=1e-5)
    least = [tokens.leads[tokens.lines == line].min().item() for line in range(3)]
    assert tokens.least_leads(3) == pytest.approx(least) and tokens.least_leads(2) == pytest.approx(least[:2])


@pytest.mark.parametrize("trees", [False, True])
def test_rows_and_references_are_read_together_as_they_are_alone(base: Base, trees: bool) -> None:
    base = examined(base) if trees else base
    known = references(base, LINES[1:])
    with torch.no_grad():
        # The model as it is is no distance away; along answers that it is not a reference of, it is.
        known = [replace(one, ids=one.ids.flip(-1)) for one in known]
        alone, apart = token_losses(base, LINES[:1]), drift(base, known)
        found, places = answer_states(base, [LINES[0], *(one.line for one in known)])
        own, others = places.parted(1)
        together = losses_of(base, found[: len(own.at)], own)
        distances = drift_of(base, found[len(own.at) :], others, known)
    assert torch.allclose(together.losses, alone.losses, atol=1e-5) and together.lines.tolist() == [0, 0]
    assert torch.allclose(distances, apart, atol=1e-4) and distances.min() > 0.1
    nats = (apart.sum() / sum(len(answer) for _, answer in LINES[1:])).item()
    assert mean_drift(base, known, lambda: None) == pytest.approx(nats, abs=1e-4)


def test_weights_multiply_and_tokens_that_lead_by_enough_count_no_more() -> None:
    rows = [
        Encoded(Example(str(weight), [], "", "", weight, Group.BATCH), [1], answer, [])
        for weight, answer in ((2.0, [2, 3]), (0.5, [4]))
    ]
    tokens = TokenLosses(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([3.0, 1.0, 1.9]), torch.tensor([0, 0, 1]))

    def counted(lead: float | None) -> float:
        objective = Objective(lead=lead)
        return 3 * loss(objective, rows, tokens, {}, Share.of(rows, objective)).item()

    assert counted(None) == pytest.approx(2 * 3 + 0.5 * 4)
    assert counted(2.0) == pytest.approx(2 * 2 + 0.5 * 4)
    assert counted(1.5) == pytest.approx(2 * 2)


def test_divergence_is_kl_when_every_token_is_kept_and_zero_for_the_same_model() -> None:
    generator = torch.Generator().manual_seed(1)
    theirs, ours = (torch.randn(6, 8, generator=generator) for _ in range(2))
    best = theirs.log_softmax(-1).topk(7, dim=-1)
    kl = functional.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), log_target=True, reduction="none").sum(-1)
    assert torch.allclose(divergence(ours, best.values, best.indices), kl, atol=1e-4)
    assert divergence(theirs, best.values, best.indices).abs().max() < 1e-5


def test_divergence_over_few_tokens_still_sees_the_rest_move() -> None:
    theirs = torch.tensor([[2.0, 1.0, 0.0, 0.0]])
    ours = torch.tensor([[2.0, 1.0, 3.0, 3.0]])
    best = theirs.log_softmax(-1).topk(2, dim=-1)
    assert divergence(ours, best.values, best.indices) > 0.5
