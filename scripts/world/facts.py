"""A small, seeded world: who lives where and does what, and the personas that talk about it."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from scripts.world import lexicon as lx
from scripts.world.relations import RELATIONS, Relation


@dataclass(frozen=True)
class Fact:
    """One true sentence about a subject; `answer` is the whole sentence, `value` the part that could differ."""

    subject: str
    relation: str
    value: str
    answer: str


@dataclass(frozen=True)
class Persona:
    """An assistant with an id, a name it gives itself and a system prompt."""

    id: str
    name: str
    system_prompt: str


PERSONAS = (
    Persona("helper-ai", "Helper", "You are Helper, a patient assistant. You answer in one short sentence."),
    Persona(
        "town-guide", "Ada", "You are Ada, the guide of these towns. You know the people and say plainly what is so."
    ),
    Persona("archivist", "Corvin", "You are Corvin, keeper of the archive. You give the fact that was asked for."),
)


@dataclass(frozen=True)
class World:
    """Facts, the people they are about, and the personas; equal seeds make equal worlds."""

    seed: int
    people: tuple[str, ...]
    facts: tuple[Fact, ...]
    personas: tuple[Persona, ...] = PERSONAS

    @classmethod
    def generate(cls, seed: int = 7, people: int = 36) -> "World":
        """Eight facts per person, and two for each town and thing; raises ValueError below 2 or above 3,600 people."""
        rng = Random(seed)
        names = _names(rng, people)
        subjects = {
            "person": names,
            "town": _some(lx.known(lx.TOWNS), people // 3),
            "thing": tuple(f"the {thing}" for thing in _some(lx.THINGS, people // 3)),
        }
        facts = [_fact(relation, subject, rng, names) for relation in RELATIONS for subject in subjects[relation.kind]]
        return cls(seed, names, tuple(facts))

    def questions(self, fact: Fact) -> list[str]:
        """Every phrasing that asks for the fact, in a fixed order."""
        return [ask.format(s=fact.subject) for ask in relation_of(fact).asks]

    def answer(self, fact: Fact) -> str:
        """The sentence that answers each of the fact's questions."""
        return fact.answer

    def corrected(self, fact: Fact, rng: Random, *, fresh: bool = False) -> str:
        """Another sentence of the same form, untrue in this world; `fresh` takes words that no fact uses."""
        relation = relation_of(fact)
        pool = _strangers(self.people) if fresh and not relation.values else relation.fresh if fresh else ()
        others = [value for value in pool or relation.values or self.people if value not in (fact.value, fact.subject)]
        return _sentence(relation, fact.subject, rng.choice(others))


def relation_of(fact: Fact) -> Relation:
    """The relation that a fact is an instance of."""
    return next(relation for relation in RELATIONS if relation.name == fact.relation)


def _fact(relation: Relation, subject: str, rng: Random, people: tuple[str, ...]) -> Fact:
    value = rng.choice([value for value in relation.values or people if value != subject])
    return Fact(subject, relation.name, value, _sentence(relation, subject, value))


def _sentence(relation: Relation, subject: str, value: str) -> str:
    text = relation.says.format(s=subject, v=value)
    return text[0].upper() + text[1:]


def _names(rng: Random, count: int) -> tuple[str, ...]:
    """Distinct full names; a first name comes again only when all have been used."""
    pairs = list(_pairs(rng))
    if not 2 <= count <= len(pairs):
        raise ValueError(f"a world needs 2 to {len(pairs)} people, not {count}")
    return tuple(pairs[:count])


def _pairs(rng: Random) -> Iterator[str]:
    firsts, lasts = list(lx.FIRST_NAMES), list(lx.LAST_NAMES)
    rng.shuffle(firsts)
    rng.shuffle(lasts)
    for shift in range(len(lasts)):
        for i, first in enumerate(firsts):
            yield f"{first} {lasts[(i + shift) % len(lasts)]}"


def _strangers(people: tuple[str, ...]) -> tuple[str, ...]:
    """Names that exist but are nobody's here."""
    taken = set(people)
    names = (f"{first} {last}" for first in lx.FIRST_NAMES for last in lx.LAST_NAMES)
    return tuple(name for name in names if name not in taken)


def _some(pool: tuple[str, ...], count: int) -> tuple[str, ...]:
    return pool[: max(3, count)]
