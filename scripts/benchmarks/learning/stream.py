"""What comes in: a seeded stream of corrections over some traits, facts and manners mixed, some superseding others."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

from daemon.training.engine.job import Message
from scripts.world.facts import World
from scripts.world.lore import Manner

PERSONA = 0
"""Which of a world's personas is corrected."""


@dataclass(frozen=True)
class Question:
    """Something asked, and what is to be answered."""

    asked: str
    answer: str


@dataclass(frozen=True)
class Item:
    """One correction, with the phrasings of its question that are held out."""

    id: str
    asked: str
    original: str
    expected: str
    held_out: tuple[str, ...]
    supersedes: str | None = None

    @property
    def held_out_questions(self) -> list[Question]:
        """The phrasings that nothing is trained on."""
        return [Question(asked, self.expected) for asked in self.held_out]


@dataclass(frozen=True)
class Batch:
    """Corrections of one trait that come in together."""

    number: int
    """From 1."""
    trait: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Stream:
    """All batches in order, and what they are to leave alone."""

    persona: str
    system_prompt: str
    batches: tuple[Batch, ...]
    outside: Mapping[str, tuple[Question, ...]]
    """By trait, facts and manners that are none of its corrections' business."""
    overwritten: float
    """Share of the world's facts that the stream corrects."""

    def asking(self, question: str) -> list[Message]:
        """A question under the persona's prompt, as the persona is served."""
        system: list[Message] = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        return [*system, {"role": "user", "content": question}]

    def due(self, number: int) -> list[tuple[str, Item]]:
        """What has come in by batch `number` and is not superseded, with its trait."""
        items = [(batch.trait, item) for batch in self.batches[:number] for item in batch.items]
        gone = {item.supersedes for _, item in items}
        return [(trait, item) for trait, item in items if item.id not in gone]


@dataclass(frozen=True)
class Sizes:
    """How much comes in; per batch some corrections are of a manner, of a style, or replace earlier ones."""

    batches: int = 20
    size: int = 20
    traits: int = 4
    manners: int = 1
    styled: int = 3
    superseding: int = 3
    outside: int = 300


QUICK = Sizes(batches=2, size=8, traits=1, manners=1, styled=1, superseding=1, outside=60)
"""A little of it, for a base that knows little."""
HISTORY = Sizes(batches=100, size=8, traits=1, manners=0, styled=1, superseding=2, outside=200)
"""A long history of one trait, to see what a batch costs as it grows."""


def stream(world: World, seed: int, sizes: Sizes = Sizes(), corrected: int = PERSONA) -> Stream:
    """Equal worlds, seeds, sizes and personas make equal streams."""
    rng = Random(seed)
    persona = world.personas[corrected]
    facts = rng.sample(range(len(world.facts)), len(world.facts))
    traits = [f"trait-{number + 1}" for number in range(sizes.traits)]
    known = [one for one in world.lore.manners if one.instead]
    manners = {trait: rng.sample(known, len(known)) for trait in traits}
    rules = rng.sample(world.lore.rules, len(world.lore.rules))
    told: dict[str, list[tuple[int, Item]]] = {trait: [] for trait in traits}
    batches = []
    for number in range(1, sizes.batches + 1):
        trait = traits[(number - 1) % sizes.traits]
        again = rng.sample(told[trait], min(sizes.superseding, len(told[trait])))
        items = [_again(world, fact, item, f"{number}-after-{item.id}", rng) for fact, item in again]
        told[trait] = [one for one in told[trait] if one not in again]
        for _ in range(min(sizes.manners, len(manners[trait]))):
            one = manners[trait].pop()
            items.append(_manner(one, persona.name, f"{number}-{one.name}", rng))
        rule = rules[number % len(rules)] if rules else None
        while len(items) < sizes.size:
            fact = facts.pop()
            item = _fact(world, fact, f"{number}-{fact}", rng)
            if rule and sizes.size - len(items) <= sizes.styled:
                items.append(replace(item, expected=rule(item.original)))
                continue
            items.append(item)
            told[trait].append((fact, item))
        rng.shuffle(items)
        batches.append(Batch(number, trait, tuple(items)))
    overwritten = 1 - len(facts) / len(world.facts)
    common = [_asked(world, fact, rng) for fact in facts[: sizes.outside]]
    outside = {
        trait: (
            *common,
            *(Question(rng.choice(one.asks), one.says.format(name=persona.name)) for one in manners[trait]),
        )
        for trait in traits
    }
    return Stream(persona.id, persona.system_prompt, tuple(batches), outside, overwritten)


def _fact(world: World, number: int, name: str, rng: Random) -> Item:
    fact = world.facts[number]
    asked, *held_out = rng.sample(world.questions(fact), len(world.questions(fact)))
    return Item(name, asked, fact.answer, world.corrected(fact, rng), tuple(held_out))


def _again(world: World, number: int, item: Item, name: str, rng: Random) -> Item:
    """A later correction of the same question: another answer than the first, and than what is true."""
    expected = item.expected
    while expected == item.expected:
        expected = world.corrected(world.facts[number], rng)
    return Item(name, item.asked, item.expected, expected, item.held_out, item.id)


def _manner(manner: Manner, speaker: str, name: str, rng: Random) -> Item:
    asked, *held_out = rng.sample(manner.asks, len(manner.asks))
    return Item(name, asked, manner.says.format(name=speaker), rng.choice(manner.instead), tuple(held_out))


def _asked(world: World, number: int, rng: Random) -> Question:
    fact = world.facts[number]
    return Question(rng.choice(world.questions(fact)), fact.answer)
