"""The training loop, from the first step to the state that is kept."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from peft import PeftModel

from daemon.training.engine import lora
from daemon.training.engine.anchors import Anchor, anchor_loss
from daemon.training.engine.base import Base
from daemon.training.engine.batches import Encoded, batch, chunks, shuffled
from daemon.training.engine.evaluate import forced, probe
from daemon.training.engine.job import Answer, Group, Step
from daemon.training.engine.loss import answer_logits, token_losses, weighted
from daemon.training.engine.policy import STUMBLES, Look, Pace, Plan, still_open
from daemon.training.engine.report import JobFailed, Reporter


@dataclass(frozen=True, slots=True)
class Trained:
    """How a training went; `answers`, by example, are the kept state's where the loop ended by asking for them."""

    loss: float
    steps: int
    samples: int
    answers: dict[str, Answer] = field(default_factory=dict)


def train(
    base: Base, adapted: PeftModel, rows: Sequence[Encoded], anchors: Sequence[Anchor], plan: Plan, report: Reporter
) -> Trained:
    """Train the adapter that is on the base; raises JobFailed when the loss stays no number."""
    weights = lora.parameters(adapted)
    optimizer = torch.optim.AdamW(weights, lr=plan.rate, betas=(0.9, 0.99), weight_decay=0.0)
    course = _Course(adapted, optimizer, plan)
    random = Random(plan.seed)
    order = shuffled(rows, plan.batch_size, random)
    held = shuffled(anchors, plan.batch_size, Random(plan.seed))
    began, samples, loss, learnt = time.monotonic(), 0, 0.0, None

    for step in range(1, plan.steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = course.pace.rate(step)
        part = next(order)
        loss = _backward(base, part, plan.lead, report)
        if anchors:
            (course.pace.pull * anchor_loss(base, next(held))).backward()  # type: ignore[no-untyped-call]
            report.alive("training")
        sound = math.isfinite(loss) and math.isfinite(torch.nn.utils.clip_grad_norm_(weights, 1.0))
        if sound:
            optimizer.step()
        optimizer.zero_grad()
        samples += len(part)

        look = _look(base, rows, report) if sound and plan.looks_after(step) else None
        if look:
            learnt = _learnt(rows, look)
            course.keep(look)
            order = shuffled(still_open(rows, look), plan.batch_size, random)
        if not sound or (look and course.pace.worse(look)):
            course.go_back(step, loss)
        eta = (plan.steps - step) * (time.monotonic() - began) / step
        report.emit(Step(step, plan.steps, loss, eta, learnt))
        if look and course.pace.enough(look):
            answers = probe(base, rows, lambda: report.alive("checking answers"))
            if all(answer.right for answer in answers):
                ids = (row.example.id for row in rows)
                return Trained(look.loss, step, samples, dict(zip(ids, answers, strict=True)))

    return Trained(course.settle(loss), plan.steps, samples)


class _Course:
    """The best state of a training so far, its pace, and how often it had to go back."""

    def __init__(self, adapted: PeftModel, optimizer: torch.optim.Optimizer, plan: Plan) -> None:
        self.pace = Pace(plan)
        self._adapted, self._optimizer = adapted, optimizer
        self._stumbles_left = STUMBLES if plan.look_every else 0
        self._best: Look | None = None
        self._kept = lora.weights(adapted)

    def keep(self, look: Look) -> None:
        """Remember the weights as they are if nothing better was seen."""
        if look.better(self._best):
            self._best, self._kept = look, lora.weights(self._adapted)

    def go_back(self, step: int, loss: float) -> None:
        """Return to the best weights, slower; raises JobFailed when that has not helped often enough."""
        if not self._stumbles_left:
            raise JobFailed(f"training diverged at step {step} (loss {loss:.3g}); lower the learning rate")
        self._stumbles_left -= 1
        self.pace.slow()
        lora.restore(self._adapted, self._kept)
        self._optimizer.state.clear()

    def settle(self, loss: float) -> float:
        """The budget is spent: take the best weights, if anybody looked; the loss of what is left on the adapter."""
        if self._best is None:
            return loss
        lora.restore(self._adapted, self._kept)
        return self._best.loss


def _backward(base: Base, part: Sequence[Encoded], lead: float | None, report: Reporter) -> float:
    """Add the gradients of one minibatch; the loss per answer token, unweighted."""
    said = sum(len(row.expected) for row in part)
    total = 0.0
    for rows in chunks(part, lambda row: len(row.prompt) + len(row.expected)):
        padded = batch(base, [(row.prompt, row.expected) for row in rows])
        tokens = token_losses(answer_logits(base.model, padded), padded)
        factors = torch.tensor([row.example.weight for row in rows], device=base.device)
        (weighted(tokens, factors, lead) / said).backward()  # type: ignore[no-untyped-call]
        total += float(tokens.losses.detach().sum())
        # On a slow machine one step may take longer than the silence after which the child counts as hung.
        report.alive("training")
    return total / said


def _look(base: Base, rows: Sequence[Encoded], report: Reporter) -> Look:
    """Greedy decoding says an answer exactly when each of its tokens leads, given those before: one pass tells."""
    seen = forced(base, [(row.prompt, row.expected) for row in rows], lambda: report.alive("looking"))
    return Look([loss for loss, _ in seen], [lead for _, lead in seen])


def _learnt(rows: Sequence[Encoded], look: Look) -> float:
    """Share of the batch that greedy decoding would say."""
    said = [lead > 0 for row, lead in zip(rows, look.leads, strict=True) if row.example.group is Group.BATCH]
    return sum(said) / len(said)
