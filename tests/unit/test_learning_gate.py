"""The gate's verdicts, both kinds, and their sentences."""

from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config.sections import Gate
from daemon.learning.gate import Decision, Verdict, judge
from daemon.training.engine.job import Answer, Group, Probe


def probe(group: Group, before: bool, after: bool | None, gain: float = 1.0, **answer: Any) -> Probe:
    candidate = None if after is None else Answer("", after, float(after), gain, **answer)
    return Probe(f"p{next(NAMES)}", group, Answer("", before, float(before), 0.0), candidate)


NAMES = count()


def batch(right: int, wrong: int = 0, before: int = 0, gain: float = 1.0) -> list[Probe]:
    """Corrections of which some are answered afterwards, and the first few were before."""
    afters = [True] * right + [False] * wrong
    return [probe(Group.BATCH, index < before, after, gain) for index, after in enumerate(afters)]


def kept(group: Group, held: int, lost: int = 0, never: int = 0) -> list[Probe]:
    sides = [(True, True)] * held + [(True, False)] * lost + [(False, False)] * never
    return [probe(group, before, after) for before, after in sides]


def verdict(probes: list[Probe], trained: bool = True, **gate: Any) -> Verdict:
    return judge(probes, Gate(**{"max_drifted": 0.1, **gate}), trained=trained)


@pytest.mark.parametrize(
    ("probes", "reason"),
    [
        (batch(10), "It answers 10 of 10 corrections as expected, 0 before; nothing else is to be kept"
         " (point rules, 10 probes)."),
        (batch(9, 1, before=2) + kept(Group.HISTORY, 5, never=1),
         "It answers 9 of 10 corrections as expected, 2 before; 5 of 6 learnt before are kept"
         " (point rules, 16 probes)."),
        (batch(60) + kept(Group.AFFIRMATION, 3),
         "It answers 60 of 60 corrections as expected, 0 before;"
         " 3 of 3 affirmed answers hold (point rules, 63 probes)."),
        (batch(10) + kept(Group.REWORDING, 18, never=2) + kept(Group.ANCHOR, 94, lost=2),
         "It answers 10 of 10 corrections as expected, 0 before; 18 of 20 rewordings of them;"
         " 94 of 96 answers that no correction is about are as they were, at most 6.2% worse"
         " (point rules, 30 probes)."),
        (batch(10) + kept(Group.HISTORY, 49, lost=1),
         "It answers 10 of 10 corrections as expected, 0 before; 49 of 50 learnt before are kept"
         " (point rules, 60 probes)."),
        (batch(1), "It answers 1 of 1 corrections as expected, 0 before; nothing else is to be kept"
         " (point rules, 1 probe)."),
        (batch(3, before=3, gain=0.5), "It answers 3 of 3 corrections as expected, 3 before; nothing else is to be kept"
         " (point rules, 3 probes)."),
    ],
)  # fmt: skip
def test_what_is_better_and_forgot_nothing_is_promoted(probes: list[Probe], reason: str) -> None:
    assert (verdict(probes).decision, verdict(probes).reason) == (Decision.PROMOTE, reason)


@pytest.mark.parametrize(
    ("probes", "reason"),
    [
        (batch(0, 10, gain=0.01), "It learned nothing: 0 of 10 answered as expected, as before."),
        (batch(2, 8, before=2, gain=float("nan")), "It learned nothing: 2 of 10 answered as expected, as before."),
        (batch(8, 2), "It answers 8 of 10 corrections as expected; 90% are asked for."),
        (batch(9, 1) + kept(Group.HISTORY, 9, lost=1), "It forgot 1 of 10 answers learnt before; 5% may be lost."),
        (batch(9, 1) + kept(Group.AFFIRMATION, 2, lost=1), "It changed 1 of 3 affirmed answers; none may be lost."),
        (batch(9) + kept(Group.REWORDING, 0, never=4),
         "It answers 0 of 4 rewordings of its corrections as expected; 70% are asked for."),
        (batch(9) + kept(Group.ANCHOR, 17, lost=3),
         "It changed 3 of 20 answers that no correction is about; 10% may be lost."),
        (batch(9) + kept(Group.ANCHOR, 90, lost=6),
         "It changed 6 of 96 answers that no correction is about: up to 12.4% may be lost of all, and 10% are"
         " allowed."),
        (batch(8) + [probe(Group.HISTORY, False, False, ended=False)] * 2,
         "2 of 10 answers have lost their shape: 2 do not end."),
    ],
)  # fmt: skip
def test_invariant_5_what_is_not_is_rejected_with_the_reason(probes: list[Probe], reason: str) -> None:
    assert (verdict(probes).decision, verdict(probes).reason) == (Decision.REJECT, reason)


def test_fewer_right_answers_than_the_incumbents_are_rejected_at_any_efficacy() -> None:
    said = verdict(batch(1, 1, before=2), min_efficacy=0)
    assert said.reason == "It answers 1 of 2 corrections as expected, the incumbent 2."
    assert said.decision is Decision.REJECT


def test_a_share_means_what_it_says_in_binary_too() -> None:
    assert verdict(batch(11, 9), min_efficacy=0.55).decision is Decision.PROMOTE
    assert verdict(batch(10, 10), min_efficacy=0.55).decision is Decision.REJECT
    history = kept(Group.HISTORY, 18, lost=2)
    assert verdict(batch(10) + history, max_forgotten=0.1).decision is Decision.PROMOTE
    assert verdict(batch(10) + history, max_forgotten=0.09).decision is Decision.REJECT


def test_an_answer_that_never_ended_is_no_new_rambling() -> None:
    silent = Answer("", False, 0, 0.0, ended=False)
    probes = [Probe("p", Group.HISTORY, silent, Answer("", False, 1, 1.0, ended=False))] * 4
    assert verdict(batch(4) + probes).decision is Decision.PROMOTE


@pytest.mark.parametrize(
    ("before", "after", "phrase"),
    [
        ("Fine.", "", "say nothing"),
        ("Fine.", "I\u2019m sorry, but no.", "refuse to answer"),
        ("Fine.", "I cannot say.", "refuse to answer"),
        ("Fine.", "it is so it is so it is so it is so it is so", "go round in circles"),
        (
            "Fine.",
            "one two three four five six seven eight nine ten eleven twelve thirteen",
            "are more than 3 times as",
        ),
    ],
)
def test_answers_that_lose_their_shape_are_rejected_whatever_they_say(before: str, after: str, phrase: str) -> None:
    probes = [Probe(f"a{at}", Group.ANCHOR, Answer(before, False, 0, 0), Answer(after, False, 0, 0)) for at in range(4)]
    said = verdict(batch(4) + probes)
    assert said.decision is Decision.REJECT and phrase in said.reason
    assert verdict(batch(40) + probes).decision is Decision.PROMOTE


def test_phrasings_of_one_correction_are_one_piece_of_evidence() -> None:
    right, wrong = Answer("", True, 1, 0), Answer("", False, 0, 0)
    same = [Probe(f"one~{at}", Group.KEPT, right, wrong) for at in range(8)]
    other = [Probe(f"one{at}~0", Group.KEPT, right, wrong) for at in range(8)]
    held = kept(Group.KEPT, 22)
    assert verdict(batch(4) + held + same).decision is Decision.PROMOTE
    assert verdict(batch(4) + held + other).decision is Decision.REJECT


def test_a_disabled_gate_promotes_and_says_what_it_would_have_said() -> None:
    said = verdict(batch(0, 4, gain=0), enabled=False)
    assert said.decision is Decision.PROMOTE
    assert said.reason == (
        "The gate is disabled; it would have said: It learned nothing: 0 of 4 answered as expected, as before."
    )
    assert verdict(batch(4), enabled=False).reason.startswith("It answers 4 of 4")


@pytest.mark.parametrize("enabled", [True, False])
def test_without_a_candidate_the_batch_is_satisfied(enabled: bool) -> None:
    answered = [probe(Group.BATCH, True, None)] * 3
    assert verdict(answered, False, enabled=enabled).decision is Decision.SATISFIED
    assert verdict(answered, False).reason == "The served persona already answers 3 of 3 as expected."
    assert verdict([], False).reason == "Later corrections of the same contexts replace all of the batch."


def test_the_evidence_holds_everything_that_was_seen() -> None:
    probes = batch(1, before=0) + kept(Group.HISTORY, 1)
    evidence = verdict(probes).evidence(probes, {"loss": 0.1})
    assert evidence["decision"] == "promote" and evidence["metrics"] == {"loss": 0.1}
    assert evidence["scores"]["batch"] == {
        "probes": 1, "incumbent": 0, "candidate": 1, "lost": 0, "margin_gain": 1.0, "margin": None, "bound": None
    }  # fmt: skip
    assert evidence["scores"]["history"]["probes"] == 1 and len(evidence["probes"]) == 2


answers = st.builds(
    Answer, text=st.just(""), right=st.booleans(), match=st.floats(0, 1), margin=st.floats(-9, 9), ended=st.booleans()
)
groups = st.sampled_from(Group)


@given(st.lists(st.builds(Probe, id=st.just("p"), group=groups, incumbent=answers, candidate=answers)))
def test_invariant_5_no_answer_lost_is_promoted_past_its_limit(probes: list[Probe]) -> None:
    said = judge(probes, Gate(max_forgotten=0, max_affirmations_lost=0), trained=True)
    if said.decision is Decision.PROMOTE:
        assert said.scores["history"].lost == said.scores["affirmation"].lost == 0
        assert said.scores["batch"].candidate >= said.scores["batch"].incumbent
    assert said.reason.endswith(".") and said.decision is not Decision.SATISFIED
    assert judge(probes, Gate(enabled=False), trained=True).decision is Decision.PROMOTE


@given(st.lists(st.builds(Probe, id=st.just("p"), group=groups, incumbent=answers, candidate=st.none())))
def test_the_incumbent_itself_is_never_a_better_candidate(probes: list[Probe]) -> None:
    assert judge(probes, Gate(), trained=True).decision is Decision.REJECT


@pytest.mark.parametrize(
    ("right", "wrong", "least", "passes"),
    [
        (2, 1, 0.7, True),
        (0, 1, 0.7, True),
        (2, 2, 0.7, False),
        (7, 3, 0.7, True),
        (2, 1, 1.0, False),
        (1, 2, 0.7, False),
    ],
)
def test_of_few_rewordings_one_may_be_missed(right: int, wrong: int, least: float, passes: bool) -> None:
    probes = batch(4) + kept(Group.REWORDING, right) + [probe(Group.REWORDING, False, False) for _ in range(wrong)]
    found = verdict(probes, min_generality=least)
    assert (found.decision is Decision.PROMOTE) is passes
    assert passes or f"It answers {right} of {right + wrong} rewordings" in found.reason


def test_rewordings_of_what_was_learnt_before_may_be_lost_as_far_as_generality_goes() -> None:
    assert verdict(batch(4) + kept(Group.KEPT, 8, lost=3)).decision is Decision.PROMOTE
    found = verdict(batch(4) + kept(Group.KEPT, 7, lost=4))
    assert (found.decision, found.reason) == (
        Decision.REJECT,
        "It forgot 4 of 11 rewordings of what was learnt before; 30% may be lost.",
    )


def test_phrasings_of_one_correction_are_one_cluster_whatever_its_id_is() -> None:
    answer = Answer("", True, 1.0, 0.0)
    assert Probe("a~b~2", Group.REWORDING, answer).correction == "a~b"
    assert Probe("a~b", Group.BATCH, answer).correction == "a~b"
