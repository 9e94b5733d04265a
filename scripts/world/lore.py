"""What a world can be made of: kinds of subjects and facts, manners, rules of style, personas."""

from collections.abc import Mapping
from dataclasses import dataclass

from scripts.world.relations import Relation


@dataclass(frozen=True)
class Manner:
    """What is answered whenever somebody says one of `asks`; `{name}` is the persona's."""

    name: str
    says: str
    asks: tuple[str, ...]
    instead: tuple[str, ...] = ()
    """What else could be answered."""


@dataclass(frozen=True)
class Rule:
    """One rule of style that a system prompt may set: `says` is what becomes of an answer, `{a}`."""

    prompt: str
    says: str

    def __call__(self, answer: str) -> str:
        """The answer as the rule wants it."""
        return self.says.format(a=answer)


@dataclass(frozen=True)
class Persona:
    """An assistant with an id, a name it gives itself and a system prompt."""

    id: str
    name: str
    system_prompt: str


@dataclass(frozen=True)
class Lore:
    """All that worlds of one kind share; the facts themselves are drawn by a seed."""

    name: str
    people: str
    """The kind of subject that has names."""
    names: tuple[tuple[str, ...], tuple[str, ...]]
    """First and last names."""
    subjects: Mapping[str, tuple[str, ...]]
    """All other kinds of subjects."""
    relations: tuple[Relation, ...]
    manners: tuple[Manner, ...]
    personas: tuple[Persona, ...]
    pools: tuple[tuple[str, ...], ...]
    """Words that facts are made of, for the tokenizer."""
    unknown: str = "I do not know that."
    rules: tuple[Rule, ...] = ()


def manner(name: str, says: str, asks: str, instead: str = "") -> Manner:
    """`asks` and `instead` hold one phrasing per line."""
    return Manner(name, says, _lines(asks), _lines(instead))


def rules(text: str) -> tuple[Rule, ...]:
    """One rule per line: the prompt, a bar, what becomes of an answer."""
    pairs = (line.split(" | ") for line in _lines(text))
    return tuple(Rule(prompt, says) for prompt, says in pairs)


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())
