"""What lies around corrections: what is to stay as it is there, the corrections in other words, and what gates ask.

Questions are put together from those that are there, corrected or made up, and the base itself tells them apart: what
it answers as it answers the corrected question is that question again, a rewording; anything else is a neighbour.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from daemon.training.engine.anchors import ANSWER, Anchor, anchored, near, unrelated
from daemon.training.engine.base import Base
from daemon.training.engine.batches import Encoded, encode
from daemon.training.engine.decode import decode
from daemon.training.engine.job import Example, Group, Message
from daemon.training.engine.wording import Asked, alike, nonsense, plainer, read

TRAINED, REHEARSED, ASKED = 4, 1, 2
"""Of each correction, how many rewordings are trained while it is new, and later; how many are kept to be asked."""
SELDOM = 0.03
"""Share of all made-up questions beyond which one answer is given to questions of more than one kind."""
NONSENSE = 8
"""Questions about nothing, to learn what the base says when it does not know."""
HELD_OUT = 4
"""Every so many-th made-up anchor holds nothing: it is asked."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What lies around some corrections, as training and gate take it."""

    anchors: list[Anchor]
    """The base's own answers, from which training is to keep its hands."""
    rewordings: list[Encoded]
    """Corrections in other words, to be trained like them."""
    held_out: list[Encoded]
    """More of both, that training does not see."""


def look_around(
    base: Base, rows: Sequence[Encoded], made_up: Sequence[Anchor], each: int, alive: Callable[[], None]
) -> Surroundings:
    """What lies around the rows of a training, the newest first, by some `each` questions put to the base per row."""
    own = _answers(base, [row.prompt for row in rows], alive)
    pairs = [(row.question, answer) for row, answer in zip(rows, own, strict=True)]
    known = read([*pairs, *((anchor.question, anchor.answer) for anchor in made_up)])
    asked = known[: len(rows)]
    found = _candidates(asked, known, each)
    plain = {text: at for at, one in enumerate(asked) for text in plainer(one.question) if text not in found}
    nothing = dict.fromkeys(nonsense(known, NONSENSE), 0)

    to_all = frozenset(answer for _, _, answer in _asked(base, rows, nothing, alive))
    meant = {one.answer: at for at, one in reversed([*enumerate(asked)]) if one.about}
    same = _of_one_mind(asked, made_up, to_all)
    for anchor in made_up:
        if anchor.answer in meant and anchor.question != asked[meant[anchor.answer]].question:
            same.setdefault(meant[anchor.answer], []).append(anchor.question)
    others = []
    for text, prompt, answer in _asked(base, rows, found, alive):
        if answer in meant:
            same.setdefault(meant[answer], []).append(text)
        elif not near(answer, own[found[text]]):
            others.append((text, prompt, answer))
    for text, _, answer in _asked(base, rows, plain, alive):
        if answer == own[plain[text]]:
            same.setdefault(plain[text], []).append(text)

    far = unrelated(made_up, rows, own, to_all)
    trained, kept = _shared_out(rows, same)
    asked_of = [_as_asked(number, anchor) for number, anchor in enumerate(far[::HELD_OUT]) if anchor.sure]
    holding = [anchor for number, anchor in enumerate(far) if number % HELD_OUT]
    return Surroundings(
        [*holding, *anchored(base, others, alive)], encode(base, trained)[0], [*encode(base, kept)[0], *asked_of]
    )


def _asked(
    base: Base, rows: Sequence[Encoded], questions: Mapping[str, int], alive: Callable[[], None]
) -> list[tuple[str, list[int], str]]:
    """Questions in the place of a row's last one: with their prompts, and the base's answers, where these end."""
    examples = [replace(rows[at].example, id=text, messages=rows[at].asking(text)) for text, at in questions.items()]
    put = encode(base, examples)[0]
    answers = _answers(base, [one.prompt for one in put], alive)
    return [(one.example.id, one.prompt, answer) for one, answer in zip(put, answers, strict=True) if answer]


def _candidates(asked: Sequence[Asked], known: Sequence[Asked], each: int) -> dict[str, int]:
    """Questions to put to the base, with the row they came of: what may mean the same, or not, and it of others."""
    random = Random(0)
    alike_most, others = each * 3 // 5, each // 5
    taken = {one.question for one in asked}
    frames = [one for one in known if one.about]
    found: dict[str, int] = {}
    for at, one in enumerate(asked):
        if not one.about:
            continue
        by_likeness = sorted(random.sample(frames, len(frames)), key=lambda frame: -alike(one, frame))
        same = list(dict.fromkeys(frame.of(one.about) for frame in by_likeness))
        rest = same[alike_most:]
        of_others = [one.of(frame.about) for frame in random.sample(frames, min(others, len(frames)))]
        picked = [*same[:alike_most], *random.sample(rest, min(others, len(rest))), *of_others]
        found |= {text: at for text in picked if text not in taken and text not in found}
    return found


def _of_one_mind(asked: Sequence[Asked], made_up: Sequence[Anchor], to_all: frozenset[str]) -> dict[int, list[str]]:
    """Questions answered as one is that does not say what it is about, if they are few: "Thanks!", "Thank you."."""
    said = Counter(anchor.answer for anchor in made_up)
    found: dict[int, list[str]] = {}
    for at, one in enumerate(asked):
        if one.answer and not one.about and one.answer not in to_all and said[one.answer] <= SELDOM * len(made_up):
            found[at] = [
                anchor.question for anchor in made_up if anchor.answer == one.answer and anchor.question != one.question
            ]
    return {at: texts for at, texts in found.items() if texts}


def _shared_out(rows: Sequence[Encoded], same: dict[int, list[str]]) -> tuple[list[Example], list[Example]]:
    """The rewordings of each row as examples: some to train, and of the batch some to ask."""
    trained, kept = [], []
    taken = {row.question for row in rows}
    for at, found in same.items():
        texts = [text for text in dict.fromkeys(found) if text not in taken]
        row = rows[at].example
        examples = [
            replace(row, id=f"{row.id}~{number}", messages=rows[at].asking(text), group=Group.REWORDING)
            for number, text in enumerate(texts)
        ]
        new = row.group is Group.BATCH
        asked = examples[1::2][:ASKED] if new else []
        trained += [one for one in examples if one not in asked][: TRAINED if new else REHEARSED]
        kept += asked
    return trained, kept


def _as_asked(number: int, anchor: Anchor) -> Encoded:
    """An anchor as a question with its answer, under the name that evidence gives it."""
    prompt, said = anchor.reference.line
    turns: list[Message] = [{"role": "user", "content": anchor.question}]
    return Encoded(Example(f"anchor-{number}", turns, anchor.answer, "", 1.0, Group.ANCHOR), prompt, said, [])


def _answers(base: Base, prompts: Sequence[list[int]], alive: Callable[[], None]) -> list[str]:
    """What the base says to each prompt; nothing where it does not come to an end."""
    said = decode(base, prompts, [ANSWER] * len(prompts), alive)
    return [base.chat.text(ids[:-1]).strip() if base.chat.ended(ids) else "" for ids in said]
