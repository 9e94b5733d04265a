"""The four measures, by free-running greedy decoding under the persona's prompt, as it is served."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from daemon.training.engine import lora
from daemon.training.engine.base import Base
from daemon.training.engine.batches import encode
from daemon.training.engine.decode import decode
from daemon.training.engine.evaluate import probe
from daemon.training.engine.job import Example, Group
from scripts.benchmarks.learning.stream import Question, Stream

ROOM = 40
"""Most tokens of an answer."""
Layers = dict[str, str]
"""By trait, the folder of the layer that it speaks with; a trait without one speaks with the base."""


@dataclass(frozen=True)
class Measures:
    """Shares, 0 to 1; what there is nothing to ask of yet is None."""

    efficacy: float
    """Of the newest batch, as its corrections asked it."""
    generality: float
    """Of the newest batch, in phrasings held out."""
    retention: float | None
    """Of all that came earlier and is not superseded."""
    remembered: float | None
    """The same of the newest batch's own trait."""
    locality: float
    """Of what lies outside, as the base answers it, asked of the newest layer."""
    unended: float
    """Answers that did not end in ROOM tokens, of all these."""


def measured(base: Base, stream: Stream, number: int, layers: Layers, known: dict[str, str]) -> Measures:
    """Where things stand after batch `number`; `known`: what the base answers outside, by question."""
    newest = stream.batches[number - 1]
    fresh = [Question(item.asked, item.expected) for item in newest.items]
    reworded = [question for item in newest.items for question in item.held_out_questions]
    earlier: dict[str, list[Question]] = {}
    names = {item.id for item in newest.items}
    for trait, item in stream.due(number):
        if item.id not in names:
            earlier.setdefault(trait, []).append(Question(item.asked, item.expected))
    outside = [Question(one.asked, known[one.asked]) for one in stream.outside[newest.trait]]
    own = earlier.pop(newest.trait, [])
    right, ended = answered(base, stream, layers.get(newest.trait), [*fresh, *reworded, *own, *outside])
    parts = [right[: len(fresh)], right[len(fresh) : len(fresh) + len(reworded)]]
    rest = right[len(fresh) + len(reworded) :]
    kept = list(rest[: len(own)])
    remembered = share(kept)
    for trait, questions in earlier.items():
        kept += answered(base, stream, layers.get(trait), questions)[0]
    return Measures(
        efficacy=share(parts[0]) or 0.0,
        generality=share(parts[1]) or 0.0,
        retention=share(kept),
        remembered=remembered,
        locality=share(rest[len(own) :]) or 0.0,
        unended=1 - (share(ended) or 0.0),
    )


def answered(
    base: Base, stream: Stream, layer: str | None, questions: Sequence[Question]
) -> tuple[list[bool], list[bool]]:
    """Which questions are answered as they should be, and which answers end at all."""
    examples = [
        Example(str(at), stream.asking(one.asked), one.answer, "", 1.0, Group.ANCHOR)
        for at, one in enumerate(questions)
    ]
    rows, unusable = encode(base, examples)
    assert not unusable, unusable
    with lora.loaded(base, layer) if layer else nullcontext():
        found = probe(base, rows, lambda: None)
    return [answer.right for answer in found], [answer.ended for answer in found]


def answers(base: Base, stream: Stream, layer: str | None, asked: Sequence[str]) -> list[str | None]:
    """What is said to each question; None where it does not end."""
    prompts = [base.chat.prompt_ids(stream.asking(text)) for text in asked]
    with lora.loaded(base, layer) if layer else nullcontext():
        said = decode(base, prompts, [ROOM] * len(prompts), lambda: None)
    return [base.chat.text(ids[:-1]) if base.chat.ended(ids) else None for ids in said]


def share(right: Sequence[bool]) -> float | None:
    """How many of them, 0 to 1; None of none."""
    return sum(right) / len(right) if right else None
