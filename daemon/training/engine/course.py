"""Where a training stands: its weights and the best of them, its pace, what is drawn next; it can be put away whole."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from heapq import nsmallest
from random import Random
from typing import Any

import torch
from peft import PeftModel

from daemon.training.engine import lora
from daemon.training.engine.batches import Draw, Kin
from daemon.training.engine.checkpoint import Facts, Tensors
from daemon.training.engine.policy import STUMBLES, Look, Pace, Plan
from daemon.training.engine.report import JobFailed


class Course:
    """One training on its way."""

    def __init__(self, adapted: PeftModel, plan: Plan, kin: Sequence[Kin], anchors: int) -> None:
        self.plan = plan
        self.pace = Pace(plan)
        self.step = 0
        """Optimizer steps done."""
        self.samples = 0
        self.tokens = 0
        """Of all that was trained on or held, each as often as it occurred."""
        self.loss = 0.0
        """Of the last minibatch, per answer token."""
        self.learnt: float | None = None
        self.leanings: dict[str, float] = {}
        self.drifted: dict[int, float] = {}
        """By anchor, how far it had drifted when it was held last, nats."""
        self.watched = list(range(len(kin)))
        """The rows that are trained and looked at; others only at the end."""
        self._adapted = adapted
        self._weights = lora.parameters(adapted)
        for weight in self._weights:
            # Made on the way back, among what is soon let go of, they would leave the heap full of holes.
            weight.grad = torch.zeros_like(weight)
        self._optimizer = torch.optim.AdamW(
            self._weights, lr=plan.rate, betas=(0.9, 0.99), weight_decay=0.0, fused=True
        )
        self._random, self._anchors_random = Random(plan.seed), Random(plan.seed)
        self._rows = Draw(range(len(kin)), plan.batch_size, self._random, kin)
        self._anchors = Draw(range(anchors), plan.held - plan.held // 2, self._anchors_random)
        self._stumbles_left = STUMBLES if plan.look_every else 0
        self._best: Look | None = None
        self._kept = lora.weights(adapted)

    def draw(self) -> tuple[list[int], list[int]]:
        """The next minibatch: which rows, and which anchors: half of them in turn, half of those that had drifted.

        While it settles, it is three quarters of those.
        """
        if self._rows.empty:  # while it settles, nobody looks what is to be drawn
            self._rows.narrow(self.watched)
        anchors = self._anchors.next()
        if self.pace.settled:
            anchors = anchors[: len(anchors) // 2]
        adrift = {at: distance for at, distance in self.drifted.items() if at not in anchors}
        return self._rows.next(), anchors + self._astray(adrift, self.plan.held - len(anchors))

    def _astray(self, adrift: dict[int, float], count: int) -> list[int]:
        """So many anchors, the likelier the further they had drifted (arXiv 1511.05952 §3.3); none twice."""
        turns = {at: self._anchors_random.expovariate(max(distance, 1e-9)) for at, distance in adrift.items()}
        return nsmallest(count, turns, key=turns.__getitem__)

    def watch(self, rows: Sequence[int]) -> None:
        """Train and look at these rows; what was best of others is forgotten."""
        self.watched, self._best = list(rows), None
        self._rows.narrow(rows)

    def narrow(self, rows: Sequence[int]) -> None:
        """Draw of these rows only, from now on."""
        self._rows.narrow(rows)

    def dismiss(self, rows: Sequence[int]) -> None:
        """Draw these rows no more until the next look: they were just seen to be learnt."""
        self._rows.drop(rows)

    def advance(self, loss: float, samples: int) -> bool:
        """Take one step along the gradients that are there; False when they, or the loss, are no numbers."""
        self.step += 1
        self.samples += samples
        self.loss = loss
        for group in self._optimizer.param_groups:
            group["lr"] = self.pace.rate(self.step)
        sound = math.isfinite(loss) and math.isfinite(torch.nn.utils.clip_grad_norm_(self._weights, 1.0))
        if sound:
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=False)
        return sound

    @property
    def last(self) -> int:
        """The step that is the last, as things stand."""
        return self.pace.settled or self.plan.steps

    @property
    def looks(self) -> bool:
        """Whether it is time to look at what is learnt."""
        if not self.plan.look_every:
            return False
        spent = self._rows.empty and not self.pace.settled
        return spent or self.plan.looks_after(self.step) or self.step == self.pace.settled

    def keep(self, look: Look) -> None:
        """Remember the weights as they are if nothing better was seen."""
        if look.better(self._best):
            self._best, self._kept = look, lora.weights(self._adapted)

    def go_back(self) -> None:
        """Return to the best weights, slower; raises JobFailed when that has not helped often enough."""
        if not self._stumbles_left:
            raise JobFailed(f"training diverged at step {self.step} (loss {self.loss:.3g}); lower the learning rate")
        self._stumbles_left -= 1
        self.pace.slow()
        lora.restore(self._adapted, self._kept)
        self._optimizer.state.clear()

    def settle(self) -> float:
        """The budget is spent: take the best weights, if anybody looked; the loss of what is left on the adapter."""
        if self._best is None:
            return self.loss
        lora.restore(self._adapted, self._kept)
        return self._best.loss

    def state(self) -> tuple[Tensors, Facts]:
        """Everything that `resumed` needs."""
        tensors = {f"weight.{name}": tensor for name, tensor in lora.weights(self._adapted).items()}
        tensors |= {f"kept.{name}": tensor for name, tensor in self._kept.items()}
        for at, weight in enumerate(self._weights):
            state = self._optimizer.state.get(weight, {})
            tensors |= {f"optimizer.{at}.{name}": value for name, value in state.items()}
        facts = {
            "step": self.step,
            "samples": self.samples,
            "tokens": self.tokens,
            "loss": self.loss,
            "learnt": self.learnt,
            "leanings": self.leanings,
            "watched": self.watched,
            "drifted": list(self.drifted.items()),
            "pace": self.pace.state(),
            "random": [self._random.getstate(), self._anchors_random.getstate()],
            "drawn": [self._rows.state(), self._anchors.state()],
            "stumbles_left": self._stumbles_left,
            "best": asdict(self._best) if self._best else None,
        }
        return tensors, facts

    def resumed(self, tensors: Tensors, facts: Facts) -> None:
        """Go on where another one was put away."""
        device = self._weights[0].device
        parts: dict[str, dict[str, Any]] = {"weight": {}, "kept": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            parts[kind][rest] = tensor.to(device)
        lora.restore(self._adapted, parts["weight"])
        self._kept = parts["kept"]
        for name, value in parts["optimizer"].items():
            at, _, what = name.partition(".")
            self._optimizer.state[self._weights[int(at)]][what] = value
        self.step, self.samples, self.tokens, self.loss = (facts[it] for it in ("step", "samples", "tokens", "loss"))
        self.learnt, self.leanings = facts["learnt"], facts["leanings"]
        self.drifted = dict(facts["drifted"])
        self.watched = facts["watched"]
        self.pace.resumed(facts["pace"])
        for random, state in zip((self._random, self._anchors_random), facts["random"], strict=True):
            version, numbers, gauss = state
            random.setstate((version, tuple(numbers), gauss))
        for draw, state in zip((self._rows, self._anchors), facts["drawn"], strict=True):
            draw.resumed(state)
        self._stumbles_left = facts["stumbles_left"]
        self._best = Look(**facts["best"]) if facts["best"] else None
