"""When a trait is due: every rule, and what holds whatever the numbers are."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config.sections import Triggers
from daemon.domain import Backlog, Run, RunState, TraitKey
from daemon.learning.triggers import Circumstances, Due, decide, span

KEY = TraitKey("ada", "rust")
NOW = 1_800_000_000.0
HOUR, DAY = 3_600.0, 86_400.0
SEE = "; why: persona runs show r"


def backlog(pending: int = 3, age: float = HOUR, **others: Any) -> Backlog:
    says = {"key": KEY, "pending": pending, "severity": pending / 2, "oldest": NOW - age, "fresh": pending}
    return Backlog(**{**says, **others})


def ended(state: RunState, settings: str = "same") -> Circumstances:
    last = Run("r", KEY, state, "", 1, 1, 1, 0, NOW, settings_hash=settings)
    return Circumstances(last=last, settings_hash="same")


def judged(waiting: Backlog, around: Circumstances | None = None, **triggers: Any) -> Due:
    return decide(waiting, Triggers(**triggers), NOW, around or Circumstances())


@pytest.mark.parametrize(
    ("waiting", "triggers", "around", "due", "why"),
    [
        (backlog(0), {}, Circumstances(asked_by="jens"), False, "no corrections"),
        (backlog(0, affirmations=50), {}, Circumstances(cron=True), False, "no corrections"),
        (backlog(10), {}, Circumstances(), True, "10 of 10 corrections"),
        (backlog(9), {}, Circumstances(), False, "9 of 10 corrections; oldest 1 h of 24 h"),
        (backlog(3, severity=2.0), {"min_severity": 2}, Circumstances(), True, "severity 2.0 of 2.0"),
        (backlog(3, severity=1.9), {"min_severity": 2}, Circumstances(), False,
         "3 of 10 corrections; severity 1.9 of 2.0; oldest 1 h of 24 h"),
        (backlog(3, severity=99.0), {"min_severity": 0}, Circumstances(), False,
         "3 of 10 corrections; oldest 1 h of 24 h"),
        (backlog(1, DAY), {}, Circumstances(), True, "the oldest waited 24 h"),
        (backlog(1, DAY - 1), {}, Circumstances(), False, "1 of 10 corrections; oldest 23 h of 24 h"),
        (backlog(1, 9 * DAY), {"min_for_timer": 2}, Circumstances(), False,
         "1 of 10 corrections; oldest 9 d of 24 h, which starts at 2"),
        (backlog(2, 9 * DAY), {"min_for_timer": 2}, Circumstances(), True, "the oldest waited 24 h"),
        (backlog(1), {"cron": "0 3 * * *"}, Circumstances(cron=True), True, "cron 0 3 * * *"),
        (backlog(1), {"min_for_timer": 2}, Circumstances(cron=True), False,
         "1 of 10 corrections; oldest 1 h of 24 h, which starts at 2"),
        (backlog(1), {}, Circumstances(asked_by="jens"), True, "jens asked"),
        (backlog(1), {"min_for_timer": 9}, Circumstances(asked_by="jens", quiet_for=0), True, "jens asked"),
        (backlog(10), {}, Circumstances(quiet_for=0.5), False, "10 of 10 corrections; waiting for the burst to end"),
        (backlog(10), {}, Circumstances(quiet_for=2), True, "10 of 10 corrections"),
        (backlog(10), {}, Circumstances(quiet_for=0.5, waited=20), True, "10 of 10 corrections"),
        (backlog(10), {"quiet": 0}, Circumstances(quiet_for=0), True, "10 of 10 corrections"),
        (backlog(99, 9 * DAY, fresh=9), {}, ended(RunState.REJECTED), False,
         "the last run was rejected; due again with 10 new corrections (9 so far), or by `persona train`" + SEE),
        (backlog(99, 9 * DAY, fresh=10), {}, ended(RunState.REJECTED), True,
         "10 of 10 new corrections since the last run was rejected"),
        (backlog(12, fresh=2), {}, ended(RunState.REJECTED, "other"), True, "12 of 10 corrections"),
        (backlog(12, fresh=2), {}, replace(ended(RunState.REJECTED), asked_by="jens"), True, "jens asked"),
        (backlog(12, fresh=2), {}, replace(ended(RunState.REJECTED), cron=True), False,
         "the last run was rejected; due again with 10 new corrections (2 so far), or by `persona train`" + SEE),
        (backlog(12, fresh=2), {}, ended(RunState.CANCELLED), False,
         "the last run was cancelled; due again with 10 new corrections (2 so far), or by `persona train`" + SEE),
        (backlog(1, DAY), {}, ended(RunState.CANCELLED), True, "the oldest waited 24 h"),
        (backlog(12, fresh=2), {}, ended(RunState.PROMOTED), True, "12 of 10 corrections"),
        (backlog(12, fresh=2), {}, ended(RunState.SATISFIED), True, "12 of 10 corrections"),
        (backlog(12, fresh=2), {}, ended(RunState.FAILED), True, "12 of 10 corrections"),
    ],
)  # fmt: skip
def test_every_rule_in_words(
    waiting: Backlog, triggers: dict[str, Any], around: Circumstances, due: bool, why: str
) -> None:
    said = judged(waiting, around, **triggers)
    assert (said.due, said.why) == (due, why)


def test_when_to_look_again() -> None:
    assert judged(backlog(1, DAY - 60)).again_in == pytest.approx(60)
    assert judged(backlog(10), Circumstances(quiet_for=0.5)).again_in == pytest.approx(1.5)
    assert judged(backlog(10), Circumstances(quiet_for=0.5)).postponed
    assert judged(backlog(99, fresh=1), ended(RunState.REJECTED)).again_in is None
    assert judged(backlog(1), min_for_timer=2).again_in is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3_599, "59 min"), (HOUR, "1 h"), (DAY, "24 h"), (47 * HOUR, "47 h"),
     (2 * DAY, "2 d"), (30 * DAY, "30 d")],
)  # fmt: skip
def test_a_length_of_time_for_people(seconds: float, words: str) -> None:
    assert span(seconds) == words


times = st.floats(0, 4e9)
spans = st.floats(0, 10 * DAY)
triggers = st.builds(
    Triggers,
    min_corrections=st.integers(1, 30),
    min_severity=st.floats(0, 20),
    max_wait=spans,
    min_for_timer=st.integers(1, 30),
    quiet=st.floats(0, 60),
)
backlogs = st.builds(
    Backlog,
    key=st.just(KEY),
    pending=st.integers(1, 60),
    severity=st.floats(0, 60),
    oldest=times,
    fresh=st.integers(0, 60),
    affirmations=st.integers(0, 60),
)
runs = st.builds(
    Run,
    id=st.just("r"),
    key=st.just(KEY),
    state=st.sampled_from([state for state in RunState if not state.live]),
    planned_because=st.just(""),
    version=st.just(1),
    attempt=st.just(1),
    fence=st.just(1),
    failures=st.just(0),
    created=times,
    settings_hash=st.sampled_from(["same", "other"]),
)
circumstances = st.builds(
    Circumstances,
    last=st.none() | runs,
    settings_hash=st.just("same"),
    cron=st.booleans(),
    asked_by=st.sampled_from(["", "jens"]),
    quiet_for=st.floats(0, 100),
    waited=st.floats(0, 1000),
)


@given(backlogs, triggers, times, circumstances)
def test_nothing_pending_is_never_due(waiting: Backlog, rules: Triggers, now: float, around: Circumstances) -> None:
    nothing = replace(waiting, pending=0, severity=0.0)
    assert decide(nothing, rules, now, around) == Due(False, "no corrections")


@given(backlogs, triggers, times, spans, circumstances)
def test_a_later_time_makes_nothing_less_due(
    waiting: Backlog, rules: Triggers, now: float, later: float, around: Circumstances
) -> None:
    then = replace(around, quiet_for=around.quiet_for + later, waited=around.waited + later)
    assert decide(waiting, rules, now + later, then).due >= decide(waiting, rules, now, around).due


@given(backlogs, triggers, times, circumstances)
def test_who_is_not_due_is_told_a_time_that_lies_ahead(
    waiting: Backlog, rules: Triggers, now: float, around: Circumstances
) -> None:
    said = decide(waiting, rules, now, around)
    assert said.why and not (said.due and said.again_in is not None)
    assert said.again_in is None or 0 <= said.again_in <= max(rules.max_wait, rules.quiet)


@given(backlogs, triggers, times, circumstances, spans)
def test_a_clock_that_jumps_back_makes_nothing_due(
    waiting: Backlog, rules: Triggers, now: float, around: Circumstances, jump: float
) -> None:
    if not decide(waiting, rules, now, around).due:
        assert not decide(waiting, rules, now - jump, around).due


@given(backlogs, triggers, times, circumstances, runs)
def test_what_was_rejected_does_not_come_back_by_itself(
    waiting: Backlog, rules: Triggers, now: float, around: Circumstances, last: Run
) -> None:
    rejected = replace(last, state=RunState.REJECTED, settings_hash="same")
    held = replace(around, last=rejected, asked_by="")
    assert decide(waiting, rules, now, held).due == (waiting.fresh >= rules.min_corrections)
    assert decide(waiting, rules, now, replace(held, asked_by="jens")).due


@given(backlogs, triggers, times, circumstances)
def test_a_burst_is_waited_for_ten_quiet_periods_at_most(
    waiting: Backlog, rules: Triggers, now: float, around: Circumstances
) -> None:
    at_the_limit = replace(around, waited=rules.quiet * 10)
    assert not decide(waiting, rules, now, at_the_limit).burst
    said = decide(waiting, rules, now, around)
    assert not said.burst or decide(waiting, rules, now, at_the_limit).due


@given(backlogs, triggers, times, circumstances)
def test_affirmations_count_toward_no_threshold(
    waiting: Backlog, rules: Triggers, now: float, around: Circumstances
) -> None:
    assert decide(waiting, rules, now, around) == decide(replace(waiting, affirmations=10_000), rules, now, around)
