"""What training makes smaller: weighted likelihood, preference over the original answer, distance to a reference."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from daemon.training.engine.base import Base
from daemon.training.engine.batches import Encoded
from daemon.training.engine.packing.passes import (
    Line,
    Places,
    TokenLosses,
    answer_states,
    chunk,
    logits,
    micro_batches,
    per_token,
)

KEPT = 32
"""How many of the likeliest next tokens a reference keeps per position; the rest counts as one outcome."""


@dataclass(frozen=True, slots=True)
class Objective:
    """Likelihood of the expected answers, and beside it, where `preference` names one, a term that prefers them."""

    preference: str = ""
    """Empty, "dpo" (arXiv 2305.18290) or "orpo" (arXiv 2403.07691)."""
    beta: float = 0.1
    """DPO's temperature; the weight of ORPO's term."""
    lead: float | None = None
    """Nats by which an answer token has to lead all others to be learnt: then its likelihood counts no more."""

    def rivals(self, rows: Sequence[Encoded]) -> list[int]:
        """Which examples have an original answer that is to be left behind."""
        return [at for at, row in enumerate(rows) if self.preference and row.original]

    def lines(self, rows: Sequence[Encoded]) -> list[Line]:
        """What has to be read of some examples: all expected answers, then those of the rivals."""
        return [(row.prompt, row.expected) for row in rows] + [
            (rows[at].prompt, rows[at].original) for at in self.rivals(rows)
        ]


@dataclass(frozen=True, slots=True)
class Share:
    """What a minibatch counts in all, so that its parts add up to the same loss however it is cut."""

    said: int
    """Tokens of its expected answers."""
    pairs: int
    """Examples with a rival."""

    @staticmethod
    def of(rows: Sequence[Encoded], objective: Objective) -> "Share":
        """The share of a whole minibatch."""
        return Share(sum(len(row.expected) for row in rows), len(objective.rivals(rows)))


def loss(
    objective: Objective, rows: Sequence[Encoded], tokens: TokenLosses, leanings: Mapping[str, float], share: Share
) -> torch.Tensor:
    """The objective over some rows of a minibatch; `tokens` are those of all their lines.

    leanings: by example, how much likelier the reference finds the expected answer than its rival, nats; for DPO.
    """
    weights = tokens.losses.new_tensor([row.example.weight for row in rows])
    rivals = objective.rivals(rows)
    counted = tokens.losses * torch.cat([weights, weights.new_zeros(len(rivals))])[tokens.lines]
    if objective.lead is not None:
        counted = counted * (tokens.leads < objective.lead)
    likelihood = counted.sum() / share.said
    if not rivals:
        return likelihood
    margins = _margins(objective, tokens, rivals, len(rows))
    if objective.preference == "dpo":
        known = weights.new_tensor([leanings[rows[at].example.id] for at in rivals])
        preference = -functional.logsigmoid(objective.beta * (margins - known))
    else:
        preference = -objective.beta * functional.logsigmoid(margins)
    return likelihood + (preference * weights[rivals]).sum() / share.pairs


def leaning(tokens: TokenLosses, rows: int) -> list[float]:
    """How much likelier each expected answer is than its rival, nats, where every one of `rows` examples has one."""
    return _margins(Objective("dpo"), tokens, list(range(rows)), rows).tolist()


def _margins(objective: Objective, tokens: TokenLosses, rivals: list[int], rows: int) -> torch.Tensor:
    """Per pair: the log-likelihoods' difference, or for ORPO the logarithm of the odds ratio per token."""
    likelihoods = -tokens.per_line(tokens.losses, rows + len(rivals))
    if objective.preference == "orpo":
        likelihoods = likelihoods / tokens.per_line(torch.ones_like(tokens.losses), len(likelihoods))
        # An answer that is certain has infinite odds.
        likelihoods = likelihoods - torch.log(-torch.expm1(likelihoods.clamp(max=-1e-6)))
    return likelihoods[rivals] - likelihoods[rows:]


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What a model found likely after each token of an answer: `top` and `ids` are (answer tokens, KEPT)."""

    line: Line
    top: torch.Tensor
    """Log-probabilities of its likeliest tokens."""
    ids: torch.Tensor


@torch.no_grad()
def references(base: Base, lines: Sequence[Line]) -> list[Reference]:
    """What the model, as it is now, finds likely along some lines."""
    states, _ = answer_states(base, lines)
    pieces = torch.split(states, chunk(base))
    best = [logits(base, piece).log_softmax(-1).topk(KEPT, dim=-1) for piece in pieces]
    values, indices = torch.cat([each.values for each in best]), torch.cat([each.indices for each in best])
    ends = torch.tensor([len(answer) for _, answer in lines]).cumsum(0).tolist()
    parts = [slice(end - len(answer), end) for (_, answer), end in zip(lines, ends, strict=True)]
    return [
        Reference(line, values[part].clone(), indices[part].clone()) for line, part in zip(lines, parts, strict=True)
    ]


def drift(base: Base, known: Sequence[Reference]) -> torch.Tensor:
    """KL of each reference to the model as it is now, nats, summed over its answer's tokens: (references,)."""
    return drift_of(base, *answer_states(base, [reference.line for reference in known]), known)


@torch.no_grad()
def drifts(base: Base, known: Sequence[Reference], alive: Callable[[], None]) -> list[float]:
    """The same of each of some references, however many."""
    found = dict[int, float]()
    for group in micro_batches(base, range(len(known)), lambda at: [known[at].line]):
        found |= zip(group, drift(base, [known[at] for at in group]).tolist(), strict=True)
        alive()
    return [found[at] for at in range(len(known))]


def mean_drift(base: Base, known: Sequence[Reference], alive: Callable[[], None]) -> float:
    """The same over all tokens of some references, nats per token."""
    return sum(drifts(base, known, alive)) / sum(len(reference.line[1]) for reference in known)


def drift_of(base: Base, states: torch.Tensor, places: Places, known: Sequence[Reference]) -> torch.Tensor:
    """The same of a pass that was made: what the head makes the references' tokens of, and where these are."""
    top, ids = (torch.cat(each) for each in ([one.top for one in known], [one.ids for one in known]))

    def criterion(found: torch.Tensor, which: slice) -> tuple[torch.Tensor, torch.Tensor]:
        distances = divergence(found, top[which], ids[which])
        return distances, distances.detach()

    distances = per_token(base, states, criterion)[0]
    return distances.new_zeros(len(known)).index_add(0, places.lines, distances)


def divergence(found: torch.Tensor, top: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """KL(reference ‖ model) per token, over the reference's likeliest tokens and all others as one outcome.

    found: logits (tokens, vocabulary); top, ids: (tokens, k), the reference's log-probabilities and their tokens.
    """
    ours = found.log_softmax(-1).gather(-1, ids)
    kept = (top.exp() * (top - ours)).sum(-1)
    rest, our_rest = ((1 - part.exp().sum(-1)).clamp(min=1e-6) for part in (top, ours))
    return kept + rest * (rest.log() - our_rest.log())
