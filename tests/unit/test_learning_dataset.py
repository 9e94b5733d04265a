"""A batch and its history as examples: what is asked, how much it weighs, what supersedes what, and what is broken."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.domain import Correction, Kind, TraitKey
from daemon.learning import dataset
from daemon.learning.dataset import build, defect, messages
from daemon.training.engine.job import Group

PROMPT = "You are Ada."
ASK = {"role": "user", "content": "What is it?"}


def row(name: str = "one", context: str | None = "What is it?", received: float = 1.0, **others: Any) -> Correction:
    return Correction(
        **{"id": name, "key": TraitKey("ada", "rust"), "context": context, "original": "I give up.",
           "expected": "It is 7.", "reason": "", "severity": 0.5, "kind": Kind.CORRECTION, "source": "explicit",
           "author": None, "received": received, **others}
    )  # fmt: skip


def talk(*turns: tuple[str, str]) -> str:
    return json.dumps([{"role": role, "content": content} for role, content in turns])


def test_plain_text_is_what_the_user_said() -> None:
    (example,) = build([row()], [], PROMPT).examples
    assert example.messages == [{"role": "system", "content": PROMPT}, ASK]
    assert (example.expected, example.original, example.group) == ("It is 7.", "I give up.", Group.BATCH)


def test_without_a_prompt_there_is_none() -> None:
    (example,) = build([row()], [], "").examples
    assert example.messages == [ASK]


def test_a_conversation_is_led_on() -> None:
    context = talk(("user", "Hello."), ("assistant", "Hello!"), ("user", "What is it?"))
    (example,) = build([row(context="\n " + context)], [], PROMPT).examples
    assert [message["role"] for message in example.messages] == ["system", "user", "assistant", "user"]
    assert example.messages[1:] == json.loads(context)


def test_a_conversation_with_a_prompt_of_its_own_keeps_it() -> None:
    (example,) = build([row(context=talk(("system", "You are Bob."), ("user", "Who?")))], [], PROMPT).examples
    assert example.messages == [{"role": "system", "content": "You are Bob."}, {"role": "user", "content": "Who?"}]


@pytest.mark.parametrize(
    "context",
    [
        "[sic] what do you mean?",
        "[]",
        "[1, 2]",
        "{}",
        '{"role": "user", "content": "x"}',
        "[" * 5_000 + "]" * 5_000,
        "[" + "9" * 5_000 + "]",
        '[{"role": "user", "content": "\\ud800"}]',
        '[{"role": "user", "content": 7}]',
        '[{"role": "user"}]',
        '[{"role": "tool", "content": "x"}]',
        '[{"role": "user", "content": "x", "name": "Bob"}]',
        '[{"role": ["user"], "content": "x"}]',
        talk(("user", "Hello."), ("assistant", "Hello!")),
        talk(("system", "You are Bob.")),
        talk(("user", "Hello."), ("system", "You are Bob."), ("user", "Who?")),
    ],
)
def test_what_is_no_conversation_is_plain_text(context: str) -> None:
    assert messages(row(context=context)) == [{"role": "user", "content": context}]


@pytest.mark.parametrize("context", [None, "", "  \n"])
def test_without_a_context_the_original_response_stands_in_at_half_weight(context: str | None) -> None:
    (example,) = build([row(context=context)], [], "").examples
    assert example.messages == [{"role": "user", "content": "I give up."}]
    assert example.weight == 0.5
    assert build([row()], [], "").examples[0].weight == 1.0


def test_weight_is_twice_the_severity_and_never_nothing() -> None:
    severities = [0.0, 0.25, 1.0]
    rows = [row(str(severity), f"What is {severity}?", severity=severity) for severity in severities]
    assert [example.weight for example in build(rows, [], "").examples] == [0.1, 0.5, 2.0]


def test_a_later_row_of_a_context_supersedes_within_the_batch_and_across_the_history() -> None:
    learnt = [row("a", "A?", 1), row("b", "B?", 2)]
    claimed = [row("a2", "A?", 3), row("a3", "A?", 4), row("c", "C?", 5)]
    data = build(claimed, learnt, PROMPT)
    assert {example.id: example.group for example in data.examples} == {
        "b": Group.HISTORY, "a3": Group.BATCH, "c": Group.BATCH,
    }  # fmt: skip
    assert data.superseded == {"a": "a2", "a2": "a3"} and data.broken == {}
    assert data.replaced() == {"superseded": 1, "replaced": 1}


def test_only_what_stands_in_the_place_of_the_batch_or_is_of_it_is_in_the_way() -> None:
    learnt = [row("a", "A?", 1), row("a2", "A?", 2), row("b", "B?", 3), row("c2", "C?", 9), row("d", "D?", 4)]
    claimed = [row("b2", "B?", 5), row("c", "C?", 6), row("e", "E?", 7)]
    data = build(claimed, learnt, PROMPT)
    assert data.superseded == {"a": "a2", "b": "b2", "c": "c2"}
    assert data.in_the_way(["a2", "b2", "c2", "d", "e", "b"]) == {"b2", "c2"}
    assert data.in_the_way(["a2", "d", "e"]) == set()
    assert data.replaced() == {"superseded": 1, "replaced": 1}


def test_an_affirmation_that_is_replaced_is_no_correction_that_is() -> None:
    claimed = [row("kept", "A?", 1, kind=Kind.AFFIRMATION), row("a", "A?", 2)]
    assert build(claimed, [], "").replaced() == {"superseded": 0, "replaced": 0}


def test_an_earlier_row_that_comes_back_does_not_supersede_a_later_one() -> None:
    data = build([row("old", "A?", 1), row("new", "B?", 3)], [row("learnt", "A?", 2)], "")
    assert [example.id for example in data.examples] == ["learnt", "new"]
    assert data.superseded == {"old": "learnt"}


def test_the_same_question_in_two_forms_is_one_context() -> None:
    data = build([row("text", "Who?", 1), row("json", talk(("user", "Who?")), 2)], [], PROMPT)
    assert [example.id for example in data.examples] == ["json"]


def test_affirmations_are_kept_as_such_wherever_they_come_from() -> None:
    data = build(
        [row("new", "A?", kind=Kind.AFFIRMATION, original="")],
        [row("old", "B?", kind=Kind.AFFIRMATION, original="It is 7.")],
        "",
    )
    assert {example.group for example in data.examples} == {Group.AFFIRMATION}
    assert {example.original for example in data.examples} == {""}


def test_a_later_affirmation_supersedes_a_correction() -> None:
    data = build([row("wrong", "A?", 1), row("right", "A?", 2, kind=Kind.AFFIRMATION)], [], "")
    assert [(example.id, example.group) for example in data.examples] == [("right", Group.AFFIRMATION)]


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (row(context="caf\udcff"), "original_context is not valid UTF-8; insert it again as UTF-8 text"),
        (row(original="caf\udcff"), "original_response is not valid UTF-8"),
        (row(expected="caf\udcff"), "expected_response is not valid UTF-8"),
        (row(context=None, original="  "), "it has neither a context nor an original response"),
        (row(context=" ", original=""), "it has neither a context nor an original response"),
    ],
)
def test_invariant_11_a_broken_row_is_named_and_everything_else_goes_on(broken: Correction, sentence: str) -> None:
    assert sentence in str(defect(broken))
    data = build([broken, row("good", "B?")], [], "")
    assert [example.id for example in data.examples] == ["good"]
    assert list(data.broken) == [broken.id]


texts = st.text(max_size=30) | st.just("caf\udcff") | st.just('[{"role": "user", "content": "x"}]')
rows = st.builds(
    row,
    name=st.uuids().map(str),
    context=st.none() | texts,
    received=st.floats(0, 100),
    original=texts,
    expected=texts,
    severity=st.floats(0, 1),
    kind=st.sampled_from(Kind),
)


@given(st.lists(rows, max_size=8), st.lists(rows, max_size=8), texts.filter(lambda text: "\udcff" not in text))
def test_every_row_becomes_exactly_one_thing(claimed: list[Correction], learnt: list[Correction], prompt: str) -> None:
    data = build(claimed, learnt, prompt)
    parts = [{example.id for example in data.examples}, set(data.broken), set(data.superseded)]
    assert sum(map(len, parts)) == len(claimed) + len(learnt)
    assert set().union(*parts) == {one.id for one in [*claimed, *learnt]}
    asked = [json.dumps(example.messages) for example in data.examples]
    assert len(asked) == len(set(asked))
    for example in data.examples:
        assert example.messages[-1]["role"] == "user" and 0 <= example.weight <= 2
        json.dumps([example.messages, example.expected], ensure_ascii=False).encode()
    assert dataset.build(claimed, learnt, prompt) == data
