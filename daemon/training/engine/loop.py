"""The training loop, from the first step to the state that is kept."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

import torch
from peft import PeftModel

from daemon.training.engine import lora
from daemon.training.engine.anchors import Anchor
from daemon.training.engine.base import Base
from daemon.training.engine.batches import Encoded, Kin
from daemon.training.engine.checkpoint import Checkpoint
from daemon.training.engine.course import Course
from daemon.training.engine.evaluate import forced, probe
from daemon.training.engine.footprint import Footprint, footprint
from daemon.training.engine.job import Answer, Group, Resumed, Step
from daemon.training.engine.objectives import Objective, Reference, Share, drift_of, drifts, leaning, loss
from daemon.training.engine.packing.passes import (
    Line,
    answer_states,
    length,
    losses_of,
    micro_batches,
    token_losses,
)
from daemon.training.engine.packing.tree import kinship
from daemon.training.engine.policy import CLEAR, FIRM, HALVINGS, SMALLEST, Look, Plan, still_open
from daemon.training.engine.report import Reporter

RECENT = 20.0
"""Seconds, at least, over which speed and time left are reckoned."""


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """What one training learns from, and what holds it where nothing is to change."""

    rows: Sequence[Encoded]
    anchors: Sequence[Anchor] = ()
    kin: Sequence[Kin] = field(init=False)
    """By row, the long beginnings that it shares with others."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "kin", kinship([row.prompt for row in self.rows]))


@dataclass(frozen=True, slots=True)
class Trained:
    """How a training went; `answers`, by example, are the kept state's where the loop ended by asking for them."""

    loss: float
    steps: int
    samples: int
    tokens: int
    scale: float = 1.0
    """What was left of the layer when it was made as small as may be."""
    answers: dict[str, Answer] = field(default_factory=dict)


def train(
    base: Base,
    adapted: PeftModel,
    material: Material,
    plan: Plan,
    report: Reporter,
    checkpoint: Checkpoint | None = None,
) -> Trained:
    """Train the adapter that is on the base; raises JobFailed when the loss stays no number."""
    course = Course(adapted, plan, material.kin, len(material.anchors))
    training = _Training(base, adapted, material, plan, report, course)
    training.begin(checkpoint)
    clock = _Clock(plan, course)
    while course.step < course.last:
        sound = training.step()
        look = training.look() if sound and course.looks else None
        if not sound or (look and course.pace.worse(look)):
            course.go_back()
        elif look and not plan.objective.preference:
            course.narrow([course.watched[at] for at in still_open(look)])
        report.emit(clock.step(course, base.peak_gb))
        if look and course.step == course.pace.settled:
            if done := training.done(look):
                return done
            course.pace.learn_on()
        elif look and not course.pace.settled and course.pace.enough(look):
            training.settle()
        if checkpoint and checkpoint.due():
            checkpoint.write(*course.state())
    return Trained(course.settle(), course.step, course.samples, course.tokens)


@dataclass(slots=True)
class _Training:
    """What happens on the way, and at its end."""

    base: Base
    adapted: PeftModel
    material: Material
    plan: Plan
    report: Reporter
    course: Course
    quiet: Footprint = field(default_factory=Footprint)

    def begin(self, checkpoint: Checkpoint | None) -> None:
        """Go on from a checkpoint, or find out what is to be known before the first step."""
        if self.plan.quiet and self.material.anchors:
            alive = partial(self.report.alive, "reading anchors")
            self.quiet = footprint(self.base, self.adapted, self.material.anchors, alive)
        if checkpoint and (reached := checkpoint.read()):
            self.course.resumed(*reached)
            self.report.emit(Resumed(self.course.step, self.plan.steps))
            return
        self.course.leanings = _leanings(self.base, self.material.rows, self.plan.objective, self.report)
        self.course.watch(self._to_watch())

    def step(self) -> bool:
        """One optimizer step; False where the loss or its gradients were no numbers."""
        course, objective, pull = self.course, self.plan.objective, self.course.pace.pull
        drawn, held = course.draw()
        part = [self.material.rows[at] for at in drawn]
        holding = [self.material.anchors[at].reference for at in held]
        fallen, leads, adrift = _backward(self.base, part, holding, objective, course, self.report)
        if objective.lead is not None and not objective.preference:
            course.dismiss([at for at, lead in zip(drawn, leads, strict=True) if lead >= objective.lead])
        course.drifted |= zip(held, adrift, strict=True)
        if self.quiet.modules:
            (pull * self.plan.quiet * self.quiet.size()).backward()  # type: ignore[no-untyped-call]
        course.tokens += sum(map(length, [*objective.lines(part), *(reference.line for reference in holding)]))
        return course.advance(fallen, len(part))

    def settle(self) -> None:
        """Everything is learnt: see how far each anchor has drifted, and draw back what has, under a falling rate."""
        known = [anchor.reference for anchor in self.material.anchors]
        found = drifts(self.base, known, lambda: self.report.alive("looking at anchors"))
        self.course.drifted = dict(enumerate(found))
        self.course.pace.settle(self.course.step)

    def look(self) -> Look:
        """How what is watched stands, which is remembered where it is the best so far."""
        rows = [self.material.rows[at] for at in self.course.watched]
        look = _look(self.base, rows, self.report)
        self.course.learnt = _learnt(rows, look)
        self.course.keep(look)
        return look

    def done(self, look: Look) -> Trained | None:
        """What has been trained, as small as may be; None where something was forgotten meanwhile: it is watched now.

        look: at what is watched, just now.
        """
        course, rows = self.course, self.material.rows
        others = sorted({*range(len(rows))} - {*course.watched})
        leads = dict(zip(others, _look(self.base, [rows[at] for at in others], self.report).leads, strict=True))
        if forgotten := [at for at, lead in leads.items() if lead < CLEAR]:
            course.watch([*course.watched, *forgotten])
            return None
        floor = min(FIRM, look.lead, *leads.values())
        scale, answers = _as_small_as_may_be(self.base, self.adapted, rows, floor, self.report)
        if not all(answer.right for answer in answers):
            return None
        found = dict(zip((row.example.id for row in rows), answers, strict=True))
        return Trained(look.loss, course.step, course.samples, course.tokens, scale, found)

    def _to_watch(self) -> list[int]:
        """All rows; of earlier ones, where training goes on from the incumbent, those that it holds least, and some."""
        rows = self.material.rows
        earlier = [at for at, row in enumerate(rows) if row.example.group in (Group.HISTORY, Group.AFFIRMATION)]
        if len(earlier) <= self.plan.watched:
            return list(range(len(rows)))
        leads = _look(self.base, [rows[at] for at in earlier], self.report).leads
        by_lead = [at for _, at in sorted(zip(leads, earlier, strict=True))]
        weak = by_lead[: self.plan.watched // 2]
        some = Random(self.plan.seed).sample(by_lead[len(weak) :], self.plan.watched - len(weak))
        return sorted({*range(len(rows))} - {*earlier} | {*weak, *some})


def _as_small_as_may_be(
    base: Base, adapted: PeftModel, rows: Sequence[Encoded], floor: float, report: Reporter
) -> tuple[float, list[Answer]]:
    """Scale an adapter down as far as all its answers still lead by `floor`, nats: the factor, and the answers.

    What a layer changes more than it must, it changes for other questions too.
    """
    kept = lora.weights(adapted)
    low, high = SMALLEST, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        lora.restore(adapted, lora.scaled(kept, middle))
        enough = _look(base, rows, report).lead >= floor
        low, high = (low, middle) if enough else (middle, high)
    for factor in (high, 1.0):
        lora.restore(adapted, lora.scaled(kept, factor))
        answers = probe(base, rows, lambda: report.alive("checking answers"))
        if all(answer.right for answer in answers):
            break
    return factor, answers


class _Clock:
    """How fast a training goes now: over the last seconds, for other programs come and go."""

    def __init__(self, plan: Plan, course: Course) -> None:
        self._plan = plan
        self._marks = deque([(time.monotonic(), course.step, course.tokens)])
        """Moments of the last seconds, the steps done then, and the tokens."""

    def step(self, course: Course, memory_gb: float) -> Step:
        """What is to be said of the step just done."""
        now = time.monotonic()
        # A look takes as long as many steps: it belongs to all that come before the next.
        while self._marks[0][0] < now - RECENT and course.step - self._marks[0][1] > self._plan.look_every + 1:
            self._marks.popleft()
        then, steps, tokens = self._marks[0]
        self._marks.append((now, course.step, course.tokens))
        eta = (course.last - course.step) * (now - then) / (course.step - steps)
        speed = (course.tokens - tokens) / (now - then)
        return Step(course.step, course.last, course.loss, eta, course.learnt, round(speed, 1), memory_gb)


def _backward(
    base: Base,
    part: Sequence[Encoded],
    holding: Sequence[Reference],
    objective: Objective,
    course: Course,
    report: Reporter,
) -> tuple[float, list[float], list[float]]:
    """Add the gradients of one minibatch, and of the mean distance to some references.

    The loss per expected token, unweighted; each row's lead, and each reference's distance, nats.
    """
    share, held = Share.of(part, objective), sum(len(reference.line[1]) for reference in holding)
    total, leads, adrift = 0.0, dict[str, float](), dict[int, float]()
    units: list[Encoded | int] = [*part, *range(len(holding))]

    def lines(unit: Encoded | int) -> list[Line]:
        return [holding[unit].line] if isinstance(unit, int) else objective.lines([unit])

    for group in micro_batches(base, units, lines):
        rows = [unit for unit in group if not isinstance(unit, int)]
        known = [unit for unit in group if isinstance(unit, int)]
        read = objective.lines(rows)
        found, places = answer_states(base, [*read, *(holding[at].line for at in known)])
        own, others = places.parted(len(read))
        worth = found.new_zeros((), dtype=torch.float32)
        if rows:
            tokens = losses_of(base, found[: len(own.at)], own)
            worth = worth + loss(objective, rows, tokens, course.leanings, share)
            total += float(tokens.losses.detach()[tokens.lines < len(rows)].sum())
            leads |= zip((row.example.id for row in rows), tokens.least_leads(len(rows)), strict=True)
        if known:
            distances = drift_of(base, found[len(own.at) :], others, [holding[at] for at in known])
            worth = worth + course.pace.pull * distances.sum() / held
            adrift.update(zip(known, distances.tolist(), strict=True))
        worth.backward()  # type: ignore[no-untyped-call]
        # On a slow machine one step may take longer than the silence after which the child counts as hung.
        report.alive("training")
    return total / share.said, [leads[row.example.id] for row in part], [adrift[at] for at in range(len(holding))]


@torch.no_grad()
def _leanings(base: Base, rows: Sequence[Encoded], objective: Objective, report: Reporter) -> dict[str, float]:
    """How much likelier the model finds each expected answer than its rival before training, nats."""
    found: dict[str, float] = {}
    paired = [rows[at] for at in objective.rivals(rows)] if objective.preference == "dpo" else []
    for group in micro_batches(base, paired, lambda row: objective.lines([row])):
        tokens = token_losses(base, objective.lines(group))
        found |= zip((row.example.id for row in group), leaning(tokens, len(group)), strict=True)
        report.alive("reading the reference")
    return found


def _look(base: Base, rows: Sequence[Encoded], report: Reporter) -> Look:
    """Greedy decoding says an answer when each of its tokens leads, given those before: one pass tells."""
    seen = forced(base, [(row.prompt, row.expected) for row in rows], lambda: report.alive("looking"))
    return Look([each.loss for each in seen], [each.lead for each in seen])


def _learnt(rows: Sequence[Encoded], look: Look) -> float:
    """Share of the batch that greedy decoding would say."""
    said = [lead > 0 for row, lead in zip(rows, look.leads, strict=True) if row.example.group is Group.BATCH]
    return sum(said) / len(said)
