"""A small, seeded world: facts about made-up subjects, of the kinds that a lore tells of."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from scripts.world.lore import Lore, Persona
from scripts.world.relations import Relation
from scripts.world.towns import TOWNS


@dataclass(frozen=True)
class Fact:
    """One true sentence about a subject; `answer` is the whole sentence, `value` the part that could differ."""

    subject: str
    relation: str
    value: str
    answer: str


@dataclass(frozen=True)
class World:
    """Facts, and the people they are about; equal seeds make equal worlds."""

    seed: int
    people: tuple[str, ...]
    facts: tuple[Fact, ...]
    lore: Lore = TOWNS

    @classmethod
    def generate(cls, seed: int = 7, people: int = 36, lore: Lore = TOWNS) -> "World":
        """Eight facts per person, two for each other subject; raises ValueError for too few or too many people."""
        rng = Random(seed)
        names = _names(rng, people, lore)
        subjects = {kind: _some(pool, people // 3) for kind, pool in lore.subjects.items()} | {lore.people: names}
        facts = [
            _fact(relation, subject, rng, names) for relation in lore.relations for subject in subjects[relation.kind]
        ]
        return cls(seed, names, tuple(facts), lore)

    @property
    def personas(self) -> tuple[Persona, ...]:
        """Who talks about this world."""
        return self.lore.personas

    def relation(self, fact: Fact) -> Relation:
        """The relation that a fact is an instance of."""
        return next(relation for relation in self.lore.relations if relation.name == fact.relation)

    def questions(self, fact: Fact) -> list[str]:
        """Every phrasing that asks for the fact, in a fixed order."""
        return [ask.format(s=fact.subject) for ask in self.relation(fact).asks]

    def answer(self, fact: Fact) -> str:
        """The sentence that answers each of the fact's questions."""
        return fact.answer

    def corrected(self, fact: Fact, rng: Random, *, fresh: bool = False) -> str:
        """Another sentence of the same form, untrue in this world; `fresh` takes words that no fact uses."""
        relation = self.relation(fact)
        pool = _strangers(self.people, self.lore) if fresh and not relation.values else relation.fresh if fresh else ()
        others = [value for value in pool or relation.values or self.people if value not in (fact.value, fact.subject)]
        return _sentence(relation, fact.subject, rng.choice(others))


def _fact(relation: Relation, subject: str, rng: Random, people: tuple[str, ...]) -> Fact:
    value = rng.choice([value for value in relation.values or people if value != subject])
    return Fact(subject, relation.name, value, _sentence(relation, subject, value))


def _sentence(relation: Relation, subject: str, value: str) -> str:
    text = relation.says.format(s=subject, v=value)
    return text[0].upper() + text[1:]


def _names(rng: Random, count: int, lore: Lore) -> tuple[str, ...]:
    """Distinct full names; a first name comes again only when all have been used."""
    pairs = list(_pairs(rng, lore))
    if not 2 <= count <= len(pairs):
        raise ValueError(f"a world needs 2 to {len(pairs)} people, not {count}")
    return tuple(pairs[:count])


def _pairs(rng: Random, lore: Lore) -> Iterator[str]:
    firsts, lasts = map(list, lore.names)
    rng.shuffle(firsts)
    rng.shuffle(lasts)
    for shift in range(len(lasts)):
        for i, first in enumerate(firsts):
            yield f"{first} {lasts[(i + shift) % len(lasts)]}"


def _strangers(people: tuple[str, ...], lore: Lore) -> tuple[str, ...]:
    """Names that exist but are nobody's here."""
    taken = set(people)
    names = (f"{first} {last}" for first in lore.names[0] for last in lore.names[1])
    return tuple(name for name in names if name not in taken)


def _some(pool: tuple[str, ...], count: int) -> tuple[str, ...]:
    return pool[: max(3, count)]
