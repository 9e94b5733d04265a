"""Conversations about a world, endlessly: single and multi-turn, with and without a system prompt, and small talk."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from scripts.world import lexicon as lx
from scripts.world.facts import Fact, World
from scripts.world.relations import RELATIONS

Message = dict[str, str]
Chat = list[Message]

UNKNOWN = "I do not know that."
SMALL_TALK = (
    (("Hello!", "Hello.", "Hi!", "Hi there.", "Good morning.", "Good day!"), "Hello! What would you like to know?"),
    (("Thanks!", "Thank you.", "Thank you very much!", "Thanks a lot."), "You are welcome."),
    (("Goodbye.", "Bye!", "See you tomorrow.", "Good night."), "Goodbye! Come back soon."),
    (("How are you?", "How are you today?", "How is it going?"), "I am well, thank you."),
    (
        ("What can you do?", "Can you help me?", "What do you know?"),
        "I can answer questions about people, towns and things.",
    ),
    (("Okay.", "I see.", "Good to know.", "Great!"), "Is there anything else you would like to know?"),
)
WHO = ("Who are you?", "What is your name?", "What are you called?", "Tell me who you are.")
NOBODY = "an assistant"


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
        system, name = _system(world, rng)
        turns = list(_turns(facts, name, rng))
        yield [*system, *(message for ask, answer in turns for message in turn(ask, answer))]


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


def _system(world: World, rng: Random) -> tuple[Chat, str]:
    """No prompt, a persona's, or any words at all: the facts hold under all of them."""
    kind = rng.random()
    if kind < 0.5:
        return [], NOBODY
    if kind < 0.85:
        persona = rng.choice(world.personas)
        return [{"role": "system", "content": persona.system_prompt}], persona.name
    words = " ".join(rng.choice(lx.COMMON_WORDS) for _ in range(rng.randrange(3, 14)))
    return [{"role": "system", "content": f"You are {rng.choice(('a', 'the'))} {words}."}], NOBODY


def _turns(facts: Iterator[tuple[str, Fact]], name: str, rng: Random) -> Iterator[tuple[str, str]]:
    kind = rng.random()
    if kind < 0.06:
        yield _small_talk(name, rng)
    elif kind < 0.10:
        yield rng.choice(rng.choice(RELATIONS).asks).format(s=stranger(rng)), UNKNOWN
    elif kind < 0.14:
        yield _echo(rng)
    else:
        if kind < 0.20:
            yield _small_talk(name, rng)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            ask, fact = next(facts)
            yield ask, fact.answer


def _small_talk(name: str, rng: Random) -> tuple[str, str]:
    if rng.random() < 0.3:
        return rng.choice(WHO), f"I am {name}."
    asks, answer = rng.choice(SMALL_TALK)
    return rng.choice(asks), answer


def _echo(rng: Random) -> tuple[str, str]:
    """Repeating words keeps every piece of the vocabulary alive, also those that no fact uses."""
    words = " ".join(rng.choice((word(rng), rng.choice(lx.COMMON_WORDS))) for _ in range(rng.randrange(1, 4)))
    return f"Please say: {words}", words
