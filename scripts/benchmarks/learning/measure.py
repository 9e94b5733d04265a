"""The four measures, by free-running greedy decoding under the persona's prompt, as it is served."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from daemon.training.engine import lora
from daemon.training.engine.base import Base
from daemon.training.engine.batches import encode
from daemon.training.engine.decode import decode
from daemon.training.engine.evaluate import probe
from daemon.training.engine.job import Answer, Example, Group
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


Asked = tuple[str, Question]
"""A trait, whose layer is asked, and what it is asked."""


def asked(stream: Stream, number: int, known: Mapping[str, str]) -> dict[str, list[Asked]]:
    """What each measure asks after batch `number`; `known`: what the base answers outside, by question."""
    newest = stream.batches[number - 1]
    fresh = {item.id for item in newest.items}
    own = {
        "efficacy": [Question(item.asked, item.expected) for item in newest.items],
        "generality": [question for item in newest.items for question in item.held_out_questions],
        "locality": [Question(one.asked, known[one.asked]) for one in stream.outside[newest.trait]],
    }
    due = [(trait, item) for trait, item in stream.due(number) if item.id not in fresh]
    return {
        **{measure: [(newest.trait, question) for question in questions] for measure, questions in own.items()},
        "retention": [(trait, Question(item.asked, item.expected)) for trait, item in due],
    }


def measured(base: Base, stream: Stream, number: int, layers: Layers, known: Mapping[str, str]) -> Measures:
    """Where things stand after batch `number`; `known`: what the base answers outside, by question."""
    every, own = asked(stream, number, known), stream.batches[number - 1].trait
    by_trait: dict[str, list[Question]] = {}
    for trait, question in dict.fromkeys(one for part in every.values() for one in part):
        by_trait.setdefault(trait, []).append(question)
    found: dict[Asked, Answer] = {}
    for trait, questions in by_trait.items():
        answers_of = answered(base, stream, layers.get(trait), questions)
        found |= {(trait, question): answer for question, answer in zip(questions, answers_of, strict=True)}
    shares = {measure: share([found[one].right for one in part]) for measure, part in every.items()}
    return Measures(
        efficacy=shares["efficacy"] or 0.0,
        generality=shares["generality"] or 0.0,
        retention=shares["retention"],
        remembered=share([found[one].right for one in every["retention"] if one[0] == own]),
        locality=shares["locality"] or 0.0,
        unended=1 - (share([answer.ended for (trait, _), answer in found.items() if trait == own]) or 0.0),
    )


def answered(base: Base, stream: Stream, layer: str | None, questions: Sequence[Question]) -> list[Answer]:
    """How each question is answered, beside what should be."""
    examples = [
        Example(str(at), stream.asking(one.asked), one.answer, "", 1.0, Group.ANCHOR)
        for at, one in enumerate(questions)
    ]
    rows, unusable = encode(base, examples)
    assert not unusable, unusable
    with lora.loaded(base, layer) if layer else nullcontext():
        return probe(base, rows, lambda: None)


def answers(base: Base, stream: Stream, layer: str | None, asked: Sequence[str]) -> list[str | None]:
    """What is said to each question; None where it does not end."""
    prompts = [base.chat.prompt_ids(stream.asking(text)) for text in asked]
    with lora.loaded(base, layer) if layer else nullcontext():
        said = decode(base, prompts, [ROOM] * len(prompts), lambda: None)
    return [base.chat.text(ids[:-1]) if base.chat.ended(ids) else None for ids in said]


def share(right: Sequence[bool]) -> float | None:
    """How many of them, 0 to 1; None of none."""
    return sum(right) / len(right) if right else None
