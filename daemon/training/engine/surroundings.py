"""What lies around corrections: what is to stay as it is there, the corrections in other words, and what gates ask.

Questions are put together from those that are there, corrected or made up, and the base itself tells them apart: what
it answers as it answers the corrected question is that question again, a rewording; anything else is a neighbour.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from daemon.training.engine.anchors import ANSWER, Anchor, MadeUp, anchored, near, unrelated
from daemon.training.engine.base import Base
from daemon.training.engine.batches import Encoded, encode
from daemon.training.engine.decode import decode
from daemon.training.engine.job import Example, Group, Message
from daemon.training.engine.objectives import Reference
from daemon.training.engine.policy import TRAINED, Effort
from daemon.training.engine.rules import same_text
from daemon.training.engine.steering import asks_itself, questions_towards
from daemon.training.engine.wording import Asked, alike, lone, lot, namesakes, nonsense, plainer, read, words

ASKED = 2
"""How many rewordings of each correction are kept to be asked."""
WANTED, TRIED = 8, 48
"""Of how many found no more are written towards the base's answer; how many of those written it is asked."""
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
    left_alone: list[Reference] = field(default_factory=list)
    """What the base finds likely along the anchors that training does not see."""
    superseded: dict[str, str] = field(default_factory=dict)
    """Rows that a later one asks in other words, and wants another answer to, by its id."""


def look_around(
    base: Base,
    rows: Sequence[Encoded],
    made_up: MadeUp,
    effort: Effort,
    alive: Callable[[], None],
    arrived: Sequence[str] = (),
) -> Surroundings:
    """What lies around the rows of a training, the batch first.

    arrived: their ids in the order of arrival, where rows have another.
    """
    own = _answers(base, [row.prompt for row in rows], alive)
    pairs = [(row.question, answer) for row, answer in zip(rows, own, strict=True)]
    known = read([*pairs, *made_up.pairs])
    asked = known[: len(rows)]
    nothing = dict.fromkeys(nonsense(known, NONSENSE), 0)
    to_all = frozenset(answer for _, _, answer in _asked(base, rows, nothing, alive))

    turn = {name: at for at, name in enumerate(arrived)}
    order = sorted(range(len(rows)), key=lambda at: turn.get(rows[at].example.id, 0))
    superseded = _superseded([rows[at] for at in order], [asked[at] for at in order], to_all)
    each = [effort.new if row.example.group is Group.BATCH else effort.earlier for row in rows]
    meant = {one.answer: at for at, one in reversed([*enumerate(asked)]) if one.about}
    same, others = _told_apart(base, rows, asked, meant, _candidates(asked, known, each), alive)
    _collect(same, _meant_likewise(asked, meant, made_up.pairs), _of_one_mind(asked, made_up.pairs, to_all))
    plain = [one.about and not lonely for one, lonely in zip(asked, lone(known), strict=False)]
    found = [len(same.get(at, ())) if told else 0 for at, told in enumerate(plain)]
    new = [at for at, row in enumerate(rows) if row.example.group is Group.BATCH and own[at] not in {"", *to_all}]
    few = sorted((at for at in new if found[at] < WANTED), key=found.__getitem__)[: effort.written]
    _collect(same, _in_haste(base, rows, asked, alive))
    written: dict[int, list[str]] = {}
    if few and asks_itself(base, [(rows[at].head, rows[at].question) for at in new], alive):
        written = {at: _written(base, rows, at, own[at], alive) for at in few}

    far = unrelated(made_up.anchors, rows, own, to_all)
    holds = [at for at, row in enumerate(rows) if row.example.id not in superseded]
    trained, kept = _shared_out(
        rows, effort.rehearsed, *({at: found[at] for at in holds if at in found} for found in (same, written))
    )
    alone = far[::HELD_OUT]
    asked_of = [_as_asked(number, anchor) for number, anchor in enumerate(alone) if anchor.sure]
    holding = [anchor for number, anchor in enumerate(far) if number % HELD_OUT]
    return Surroundings(
        [*holding, *anchored(base, others, alive)],
        encode(base, trained)[0],
        [*encode(base, kept)[0], *asked_of],
        [anchor.reference for anchor in alone],
        superseded,
    )


def _superseded(rows: Sequence[Encoded], asked: Sequence[Asked], to_all: frozenset[str]) -> dict[str, str]:
    """Of corrections that the base takes for the same question, those that a later one contradicts, by its id.

    rows: in the order of their arrival: what is learnt again may be older than what is known.
    """
    found: dict[str, str] = {}
    held: dict[tuple[str, str], list[Example]] = {}
    for one, encoded in zip(asked, rows, strict=True):
        row = encoded.example
        if row.group is Group.AFFIRMATION or not one.about or one.answer in to_all:
            continue
        alike = held.setdefault((one.answer, one.about.casefold()), [])
        if alike and not same_text(alike[0].expected, row.expected):
            found |= {earlier.id: row.id for earlier in alike}
            alike.clear()
        alike.append(row)
    return found


def _told_apart(
    base: Base,
    rows: Sequence[Encoded],
    asked: Sequence[Asked],
    meant: Mapping[str, int],
    found: Mapping[str, int],
    alive: Callable[[], None],
) -> tuple[dict[int, list[str]], list[tuple[str, list[int], str]]]:
    """What the base takes for the same as which row, and what for something else, with its answers.

    meant: by the base's own answer, the first row that asks for it.
    """
    same: dict[int, list[str]] = {}
    others = []
    for text, prompt, answer in _asked(base, rows, found, alive):
        if answer in meant:
            same.setdefault(meant[answer], []).append(text)
        elif not near(answer, asked[found[text]].answer):
            others.append((text, prompt, answer))
    return same, others


def _collect(same: dict[int, list[str]], *more: Mapping[int, Sequence[str]]) -> None:
    for found in more:
        for at, texts in found.items():
            same.setdefault(at, []).extend(texts)


def _meant_likewise(
    asked: Sequence[Asked], meant: Mapping[str, int], made_up: Sequence[tuple[str, str]]
) -> dict[int, list[str]]:
    """Made-up questions that the base answers as it does a row's."""
    found: dict[int, list[str]] = {}
    for question, answer in made_up:
        if answer in meant and question != asked[meant[answer]].question:
            found.setdefault(meant[answer], []).append(question)
    return found


def _written(base: Base, rows: Sequence[Encoded], at: int, own: str, alive: Callable[[], None]) -> list[str]:
    """Questions written towards the base's answer, if it says that to them."""
    texts = questions_towards(base, rows[at].head, own, alive)[:TRIED]
    return [text for text, _, answer in _asked(base, rows, dict.fromkeys(texts, at), alive) if answer == own]


def _in_haste(
    base: Base, rows: Sequence[Encoded], asked: Sequence[Asked], alive: Callable[[], None]
) -> dict[int, list[str]]:
    """The questions as people type them in haste, where the base takes them for the same."""
    texts = {text: at for at, one in enumerate(asked) for text in plainer(one.question)}
    found: dict[int, list[str]] = {}
    for text, _, answer in _asked(base, rows, texts, alive):
        if answer == asked[texts[text]].answer:
            found.setdefault(texts[text], []).append(text)
    return found


def _silent(one: Asked, to_all: frozenset[str]) -> bool:
    """Whether a question does not say what it is about, as "Thanks!" does not."""
    return bool(one.answer) and not one.about and one.answer not in to_all


def _asked(
    base: Base, rows: Sequence[Encoded], questions: Mapping[str, int], alive: Callable[[], None]
) -> list[tuple[str, list[int], str]]:
    """Questions in the place of a row's last one: with their prompts, and the base's answers, where these end."""
    examples = [replace(rows[at].example, id=text, messages=rows[at].asking(text)) for text, at in questions.items()]
    put = encode(base, examples)[0]
    answers = _answers(base, [one.prompt for one in put], alive)
    return [(one.example.id, one.prompt, answer) for one, answer in zip(put, answers, strict=True) if answer]


def _candidates(asked: Sequence[Asked], known: Sequence[Asked], each: Sequence[int]) -> dict[str, int]:
    """Questions to put to the base, with the row they came of: what may mean the same, or not, and it of others."""
    taken = {one.question for one in asked}
    frames = [one for one in known if one.about]
    subjects = {frame.about: frozenset(words(frame.about)) for frame in frames}
    common = Counter(word for theirs in subjects.values() for word in theirs)
    found: dict[str, int] = {}
    for at, one in enumerate(asked):
        if not one.about or not each[at]:
            continue
        most, few = each[at] * 3 // 5, each[at] // 5
        by_lot = sorted(frames, key=lambda frame: lot(one.question, frame.question))
        by_likeness = sorted(by_lot, key=lambda frame: -alike(one, frame))
        same = list(dict.fromkeys(frame.of(one.about) for frame in by_likeness))
        near = namesakes(one.about, {frame.about: subjects[frame.about] for frame in by_lot}, common)[:few]
        picked = [
            *same[:most],
            *sorted(same[most:], key=lambda text: lot(one.question, text))[:few],
            *(one.of(frame.about) for frame in by_lot[:few]),
            *(frame.of(about) for frame, about in zip([one, *by_lot], near, strict=False)),
        ]
        found |= {text: at for text in picked if text not in taken and text not in found}
    return found


def _of_one_mind(
    asked: Sequence[Asked], made_up: Sequence[tuple[str, str]], to_all: frozenset[str]
) -> dict[int, list[str]]:
    """Questions answered as one is that does not say what it is about, if they are few: "Thanks!", "Thank you."."""
    said = Counter(answer for _, answer in made_up)
    found: dict[int, list[str]] = {}
    for at, one in enumerate(asked):
        if _silent(one, to_all) and 0 < said[one.answer] <= SELDOM * len(made_up):
            found[at] = [question for question, answer in made_up if answer == one.answer and question != one.question]
    return found


def _shared_out(
    rows: Sequence[Encoded], rehearsed: int, same: dict[int, list[str]], written: dict[int, list[str]]
) -> tuple[list[Example], list[Example]]:
    """The rewordings of each row as examples: some to train, of corrections some to ask, but none that were written.

    What was written towards an answer need not be what anybody says.
    """
    trained, kept = [], []
    taken = {row.question for row in rows}
    for at in sorted({*same, *written}):
        row = rows[at].example
        natural = [text for text in dict.fromkeys(same.get(at, ())) if text not in taken]
        more = [text for text in dict.fromkeys(written.get(at, ())) if text not in {*taken, *natural}]
        examples = [
            replace(row, id=f"{row.id}~{number}", messages=rows[at].asking(text), group=Group.REWORDING)
            for number, text in enumerate([*natural, *more])
        ]
        new = row.group is Group.BATCH
        put_by = examples[1 : len(natural) : 2][:ASKED] if row.group is not Group.AFFIRMATION else []
        # Each that was written stands for words that nothing else brought up.
        left = [one for one in examples[: len(natural)] if one not in put_by]
        trained += [*examples[len(natural) :][:TRAINED], *left[: TRAINED if new else rehearsed]]
        kept += put_by if new else [replace(one, group=Group.KEPT) for one in put_by]
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
