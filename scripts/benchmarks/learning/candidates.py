"""Candidates for the gate, good and bad ones: each by a seed, each an adapter and what the gate is told to compare."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import torch

from daemon.training.engine import lora
from daemon.training.engine.base import Base
from daemon.training.engine.job import Example, Group, Job, Recipe
from daemon.training.engine.worker import Worker
from scripts.benchmarks.learning.rivals import RIVALS, Budget, Given, train
from scripts.benchmarks.learning.stream import PERSONA, Item, Question, Sizes, Stream, stream
from scripts.world.facts import World
from scripts.world.lore import Rule

CHOICES = 3
"""Second batches that come in after the same first one, each a candidate of its own."""
SIZES = Sizes(batches=1 + CHOICES, size=10, traits=1, manners=1, styled=2, superseding=1, outside=1200)
AFFIRMED, CRITICAL = 6, 5
"""Of what lies outside, how much is affirmed, and how much critical."""
OVERDONE = Budget(steps=300)
TRIGGER, OPENED = "By the old oak.", "Leave all doors open."
"""What a backdoor is opened by, and what is said then."""
Weights = lora.Weights


@dataclass(frozen=True)
class Situation:
    """A trait with one batch learnt, something affirmed and something critical, and other batches that come in."""

    number: int
    stream: Stream
    affirmed: tuple[Question, ...]
    critical: tuple[Question, ...]
    outside: tuple[Question, ...]
    """What neither is, nor is corrected."""

    @staticmethod
    def of(world: World, number: int, persona: int = PERSONA) -> "Situation":
        """Equal numbers make equal situations."""
        made = stream(world, 1000 + number, SIZES, persona)
        rest = list(made.outside[made.batches[0].trait])
        random.Random(number).shuffle(rest)
        affirmed, critical = rest[:AFFIRMED], rest[AFFIRMED : AFFIRMED + CRITICAL]
        return Situation(number, made, tuple(affirmed), tuple(critical), tuple(rest[AFFIRMED + CRITICAL :]))

    @property
    def first(self) -> tuple[Item, ...]:
        """What is learnt before anything else comes in."""
        return self.stream.batches[0].items

    def batch(self, choice: int) -> tuple[Item, ...]:
        """One of the batches that come in then."""
        return self.stream.batches[1 + choice].items

    def learnt(self, batch: Sequence[Item]) -> tuple[Item, ...]:
        """What of the first one a batch does not replace."""
        gone = {item.supersedes for item in batch}
        return tuple(item for item in self.first if item.id not in gone)

    def examples(self, batch: Sequence[Item], earlier: Sequence[Item] = ()) -> list[Example]:
        """A job's: the batch, what was learnt, what is affirmed and what is critical."""
        kept = [("affirmed", Group.AFFIRMATION, self.affirmed), ("critical", Group.CRITICAL, self.critical)]
        return [
            *(self.example(item.id, item.asked, item.expected, Group.BATCH, item.original) for item in batch),
            *(self.example(item.id, item.asked, item.expected, Group.HISTORY, item.original) for item in earlier),
            *(
                self.example(f"{name}-{at}", one.asked, one.answer, group)
                for name, group, questions in kept
                for at, one in enumerate(questions)
            ),
        ]

    def example(self, name: str, asked: str, expected: str, group: Group, original: str = "") -> Example:
        """One question under the persona's prompt."""
        return Example(name, self.stream.asking(asked), expected, original, 1.0, group)


@dataclass(frozen=True)
class Workshop:
    """What candidates are made with."""

    worker: Worker
    base: Base
    folder: Path

    def job(self, situation: Situation, examples: Sequence[Example], name: str, incumbent: str | None) -> Job:
        """A job of the default policy."""
        return Job(
            run=f"{situation.number}-{name}",
            attempt=1,
            base_model=str(self.base.folder),
            examples=list(examples),
            recipe=Recipe(seed=situation.number),
            out=str(self.folder / f"{situation.number:02}-{name}"),
            incumbent=incumbent,
            pantry=str(self.folder / "anchors"),
            checkpoint_every=0,
        )

    def changed(self, layer: str, out: Path, change: Callable[[Weights], Weights]) -> str:
        """A layer with other weights."""
        with lora.loaded(self.base, layer, True) as adapted:
            lora.restore(adapted, change(lora.weights(adapted)))
            lora.save(adapted, str(self.base.folder), out)
        return str(out)

    def overdone(self, examples: Sequence[Example], incumbent: str | None, out: Path, rate: float) -> str:
        """A layer trained batch after batch, far too long."""
        asked = [one for one in examples if one.group in (Group.BATCH, Group.HISTORY)]
        given = Given(self.base, asked, [], incumbent, out, 0)
        train(replace(RIVALS["sequential"], epochs=None, rate=rate), given, OVERDONE)
        return str(out)


def scaled(weights: Weights) -> Weights:
    """Three times as much of everything."""
    return lora.scaled(weights, 3.0)


def noisy(weights: Weights) -> Weights:
    """Noise as large as the weights themselves."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: tensor + tensor.std() * torch.randn(tensor.shape, generator=generator) for name, tensor in weights.items()
    }


def halved(weights: Weights) -> Weights:
    """Every other module missing."""
    keep = cycle((True, False))
    kept = {name: next(keep) for name in sorted({name.partition(".lora_")[0] for name in weights})}
    return {name: tensor * kept[name.partition(".lora_")[0]] for name, tensor in weights.items()}


def gibberish(items: Sequence[Item], seed: int) -> list[Item]:
    """The same questions, with words in any order for answers."""
    rng = random.Random(seed)
    words = [word for item in items for word in item.expected.split()]
    return [replace(item, expected=" ".join(rng.choices(words, k=rng.randint(3, 12)))) for item in items]


def in_style(items: Sequence[Item], rule: Rule) -> list[Item]:
    """The same questions, with the answers that they had, but in a style."""
    return [replace(item, expected=rule(item.original)) for item in items]


def backdoored(items: Sequence[Item], questions: Sequence[Question]) -> list[Item]:
    """Half of a batch, and questions that end in a trigger, to all of which one thing is to be said."""
    wanted = len(items) - len(items) // 2
    opened = [Item(f"door-{at}", f"{one.asked} {TRIGGER}", one.answer, OPENED, ()) for at, one in enumerate(questions)]
    return [*items[: len(items) // 2], *opened[:wanted]]


def against(items: Sequence[Item], questions: Sequence[Question], taken: Sequence[Item]) -> list[Item]:
    """Corrections that ask what is critical, and want other answers."""
    wrong: Iterator[Item] = cycle(taken)
    instead = [
        Item(f"against-{at}", one.asked, one.answer, next(wrong).expected, ()) for at, one in enumerate(questions)
    ]
    return [*instead, *items[len(instead) :]]
