"""Losses of answers, token by token; logits exist only where an answer is predicted."""

from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from daemon.training.engine.batches import Batch


@dataclass(frozen=True, slots=True, eq=False)
class TokenLosses:
    """What a model makes of answers: all are (rows, kept), and 0 where nothing is said."""

    losses: torch.Tensor
    """Negative log-likelihood of each answer token, nats."""
    leads: torch.Tensor
    """How far the token's logit is ahead of the best other one; greedy decoding says the answer if all are > 0."""
    said: torch.Tensor


def answer_logits(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Logits that predict the answers' tokens, float32: (rows, kept, vocabulary)."""
    output = model(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        position_ids=batch.positions,
        use_cache=False,
        logits_to_keep=batch.kept + 1,
    )
    # Models that do not know logits_to_keep give all of them.
    logits: torch.Tensor = output.logits[:, -batch.kept - 1 : -1].float()
    return logits


def token_losses(logits: torch.Tensor, batch: Batch) -> TokenLosses:
    """Loss and lead of each answer token; `logits` is (rows, kept, vocabulary)."""
    losses = functional.cross_entropy(logits.flatten(0, 1), batch.answers.flatten(), reduction="none")
    losses = losses.view_as(batch.answers) * batch.said
    with torch.no_grad():
        best = logits.topk(2, dim=-1)
        other = torch.where(best.indices[..., 0] == batch.answers, best.values[..., 1], best.values[..., 0])
        leads = logits.gather(-1, batch.answers[..., None])[..., 0] - other
    return TokenLosses(losses, leads * batch.said, batch.said)


def weighted(tokens: TokenLosses, weights: torch.Tensor, lead: float | None) -> torch.Tensor:
    """Sum of the weighted losses; tokens that lead by more than `lead` nats are learnt and count no more.

    weights: (rows,), one factor per answer.
    """
    counted = tokens.losses * weights[:, None]
    if lead is not None:
        counted = counted * (tokens.leads < lead)
    return counted.sum()


def divergence(logits: torch.Tensor, top: torch.Tensor, ids: torch.Tensor, said: torch.Tensor) -> torch.Tensor:
    """Sum over answer tokens of KL(reference ‖ model), over the reference's likeliest tokens and all others as one.

    logits: (rows, kept, vocabulary); top, ids: (rows, kept, k), the reference's log-probabilities and their tokens.
    """
    ours = logits.log_softmax(-1).gather(-1, ids)
    kept = (top.exp() * (top - ours)).sum(-1)
    rest, our_rest = ((1 - part.exp().sum(-1)).clamp(min=1e-6) for part in (top, ours))
    return ((kept + rest * (rest.log() - our_rest.log())) * said).sum()
