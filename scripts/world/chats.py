"""Conversations about a world, endlessly: single and multi-turn, with and without a system prompt, and small talk."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from scripts.world import lexicon as lx
from scripts.world.facts import Fact, World
from scripts.world.lore import Lore, Rule

Message = dict[str, str]
Chat = list[Message]

NOBODY = "an assistant"
PLAIN = Rule("", "{a}")
"""No rule at all."""


@dataclass(frozen=True)
class Split:
    """Which phrasings may be trained: for every fifth fact one phrasing is held out."""

    world: World

    def held_in(self, index: int) -> list[str]:
        """The trained questions of fact number `index`."""
        held = self.held_out(index)
        return [question for question in self.world.questions(self.world.facts[index]) if question != held]

    def held_out(self, index: int) -> str | None:
        """The one question of fact number `index` that is never trained, if it has one."""
        if index % 5:
            return None
        questions = self.world.questions(self.world.facts[index])
        return questions[(index // 5) % len(questions)]


def chats(world: World, rng: Random) -> Iterator[Chat]:
    """Training conversations without end; every fact comes up equally often."""
    facts = _shuffled(Split(world), rng)
    while True:
        system, name, rule = _system(world, rng)
        turns = list(_turns(world.lore, facts, name, rng))
        yield [*system, *(message for ask, answer in turns for message in turn(ask, rule(answer)))]


def turn(ask: str, answer: str) -> Chat:
    """One question and its answer."""
    return [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]


def question(ask: str, system: str | None = None) -> Chat:
    """A conversation that waits for its first answer."""
    prompt = [] if system is None else [{"role": "system", "content": system}]
    return [*prompt, {"role": "user", "content": ask}]


def stranger(rng: Random) -> str:
    """A made-up name that is in no pool."""
    return f"{word(rng).title()} {word(rng).title()}"


def word(rng: Random) -> str:
    """A pronounceable word that means nothing."""
    parts = rng.choice((2, 2, 3))
    return "".join(rng.choice(lx.ONSETS) + rng.choice(lx.VOWELS) + rng.choice(lx.CODAS) for _ in range(parts))


def _shuffled(split: Split, rng: Random) -> Iterator[tuple[str, Fact]]:
    order = list(range(len(split.world.facts)))
    while True:
        rng.shuffle(order)
        for index in order:
            yield rng.choice(split.held_in(index)), split.world.facts[index]


def _system(world: World, rng: Random) -> tuple[Chat, str, Rule]:
    """No prompt, a persona's, a rule of style, or any words at all: the facts hold under all of them."""
    kind = rng.random()
    if kind < 0.5:
        return [], NOBODY, PLAIN
    if kind < 0.85:
        persona = rng.choice(world.personas)
        return [{"role": "system", "content": persona.system_prompt}], persona.name, PLAIN
    if world.lore.rules and kind < 0.92:
        rule = rng.choice(world.lore.rules)
        return [{"role": "system", "content": rule.prompt}], NOBODY, rule
    words = " ".join(rng.choice(lx.COMMON_WORDS) for _ in range(rng.randrange(3, 14)))
    return [{"role": "system", "content": f"You are {rng.choice(('a', 'the'))} {words}."}], NOBODY, PLAIN


def _turns(lore: Lore, facts: Iterator[tuple[str, Fact]], name: str, rng: Random) -> Iterator[tuple[str, str]]:
    kind = rng.random()
    if kind < 0.06:
        yield _small_talk(lore, name, rng)
    elif kind < 0.10:
        yield rng.choice(rng.choice(lore.relations).asks).format(s=stranger(rng)), lore.unknown
    elif kind < 0.14:
        yield _echo(rng)
    else:
        if kind < 0.20:
            yield _small_talk(lore, name, rng)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            ask, fact = next(facts)
            yield ask, fact.answer


def _small_talk(lore: Lore, name: str, rng: Random) -> tuple[str, str]:
    one = rng.choice(lore.manners)
    return rng.choice(one.asks), one.says.format(name=name)


def _echo(rng: Random) -> tuple[str, str]:
    """Repeating words keeps every piece of the vocabulary alive, also those that no fact uses."""
    words = " ".join(rng.choice((word(rng), rng.choice(lx.COMMON_WORDS))) for _ in range(rng.randrange(1, 4)))
    return f"Please say: {words}", words
