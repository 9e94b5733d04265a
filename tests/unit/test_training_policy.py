"""When training starts, slows down, goes back and ends."""

from dataclasses import replace

import pytest

from daemon.training.engine.batches import Encoded
from daemon.training.engine.job import Group, Recipe
from daemon.training.engine.policy import (
    BACK,
    CLEAR,
    LEAD,
    PATIENCE,
    PULL,
    ROWS,
    SETTLING,
    STALLS,
    SURE,
    TRAINED,
    YOUNG,
    Effort,
    Look,
    Pace,
    effort,
    plan,
    start_rate,
    still_open,
    to_train,
)
from tests.integration.training_support import example


def encoded(name: str, prompt: list[int], group: Group) -> Encoded:
    return Encoded(example(name, "?", "!", group=group), prompt, [1], [])


def look(loss: float = 1.0, *leads: float) -> Look:
    return Look([loss] * max(1, len(leads)), list(leads) or [-1.0])


def test_fixed_is_the_requirements_schedule() -> None:
    fixed = plan(Recipe(policy="fixed"), 10, 128)
    assert (fixed.steps, fixed.batch_size, fixed.rate, fixed.warmup) == (9, 4, 2e-4, 0)
    assert (fixed.continues, fixed.objective.lead, fixed.held) == (True, None, 0)
    assert not any(fixed.looks_after(step) for step in range(1, 10))
    assert {Pace(fixed).rate(step) for step in range(1, 10)} == {2e-4}


def test_until_learned_starts_from_the_base_within_its_budget() -> None:
    until = plan(Recipe(max_steps=37), 10, 128)
    assert (until.steps, until.batch_size, until.continues) == (37, 4, False)
    assert [step for step in range(1, 38) if until.looks_after(step)] == [16, 32, 37]


def test_a_long_history_makes_larger_minibatches_not_longer_epochs() -> None:
    rows = [encoded(f"{number}", [number], Group.HISTORY) for number in range(800)]
    assert plan(Recipe(), 800, 128).of(rows).batch_size == 50
    assert plan(Recipe(), 800, 128, going_on=0).of(rows).batch_size == 4, "of which it trains the watched ones"
    assert plan(Recipe(policy="fixed"), 800, 128).of(rows).batch_size == 4


def test_a_young_layer_is_learnt_again_in_as_many_words_as_its_news() -> None:
    anew, on = plan(Recipe(), 10, 128), plan(Recipe(), 300, 128, 10)
    young, old = (effort(anew, earlier, 1_000_000, "cpu") for earlier in (YOUNG, YOUNG + 1))
    assert (young.earlier, young.rehearsed) == (young.new, TRAINED)
    assert 0 < old.earlier < young.earlier and 0 < old.rehearsed < TRAINED and old.new == young.new
    assert effort(on, 290, 1_000_000, "cpu") == Effort(old.new, 0, old.rehearsed, old.written), "only what is new"
    slow = effort(anew, YOUNG, 500_000_000, "cpu")
    assert 0 < slow.earlier < slow.new < young.new and slow.written == 0


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="policy 'never' is unknown"):
        plan(Recipe(policy="never"), 1, 128)


def test_the_first_rate_falls_with_the_width() -> None:
    rates = [start_rate(width) for width in (64, 128, 896, 2048, 4096)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == 1e-3 and 2e-4 < rates[-1] < 4e-4


def test_the_union_leaves_out_what_the_batch_corrects_anew() -> None:
    new, old = encoded("new", [1, 2], Group.BATCH), encoded("old", [1, 2], Group.HISTORY)
    kept, good = encoded("kept", [1, 3], Group.HISTORY), encoded("good", [1, 4], Group.AFFIRMATION)
    assert to_train(Recipe(), [old, new, kept, good]) == [new, kept, good]
    assert to_train(Recipe(policy="fixed"), [old, new, kept, good]) == [new]


def test_what_leads_by_enough_rests_until_the_next_look() -> None:
    assert still_open(look(1.0, LEAD, 0.5, -1.0)) == [1, 2]
    assert still_open(look(1.0, 9.0, 9.0, 9.0)) == [0, 1, 2]


def test_the_rate_warms_up_and_halves_when_the_loss_leaves_its_lowest_behind() -> None:
    pace = Pace(replace(plan(Recipe(), 10, 128), rate=1.0, warmup=4))
    assert [pace.rate(step) for step in (1, 2, 4, 9)] == [0.25, 0.5, 1.0, 1.0]
    assert not pace.worse(look(0.5))
    assert not pace.worse(look(1.4))
    assert pace.worse(look(1.6))
    pace.slow()
    assert pace.rate(9) == 0.5


def test_the_rate_rises_when_nothing_moves_and_most_is_unlearnt() -> None:
    pace = Pace(replace(plan(Recipe(), 10, 128), rate=1.0, warmup=0))
    for _ in range(STALLS + 1):
        assert not pace.worse(look(1.0, -1.0, -1.0, 2.0))
    assert pace.rate(1) == 1.5
    for _ in range(100):
        pace.worse(look(1.0))
    assert pace.rate(1) == 4.0


def test_the_rate_stays_while_the_loss_falls_and_sinks_when_only_noise_is_left() -> None:
    pace = Pace(replace(plan(Recipe(), 10, 128), rate=1.0, warmup=0, batch_size=ROWS))
    for number in range(20):
        pace.worse(look(2.0 * 0.9**number))
    assert (pace.rate(1), pace.pull) == (1.0, PULL)
    for _ in range(STALLS + 1):
        pace.worse(look(0.2, 1.0, 1.0, -0.1))
    assert (pace.rate(1), pace.pull) == (0.8, PULL / 2)


def test_enough_is_a_sure_lead_at_once_or_a_clear_one_for_a_while() -> None:
    pace = Pace(plan(Recipe(), 10, 128))
    assert not pace.enough(look(0.1, 5.0, SURE - 0.1))
    assert pace.enough(look(0.1, 5.0, SURE))
    patient = Pace(plan(Recipe(), 10, 128))
    clear, doubtful = look(0.1, 5.0, CLEAR), look(0.1, 5.0, CLEAR / 2)
    assert [patient.enough(each) for each in [clear] * (PATIENCE - 1) + [doubtful] + [clear] * PATIENCE] == [
        *[False] * (2 * PATIENCE - 1),
        True,
    ]


def test_what_is_learnt_settles_under_a_rate_that_falls_to_nothing() -> None:
    pace = Pace(replace(plan(Recipe(), 10, 128), rate=1.0, warmup=0, batch_size=ROWS))
    pace.settle(40)
    assert pace.settled == 80
    rates = [pace.rate(step) for step in range(41, 81)]
    assert rates == sorted(rates, reverse=True) and rates[0] == 1.0 and rates[-1] == 1 / 40
    assert pace.pull == BACK * PULL, "what drifted is drawn back"
    pace.learn_on()
    assert (pace.settled, pace.rate(81), pace.pull) == (0, 1.0, PULL)
    pace.settle(3 * SETTLING)
    assert pace.settled == 4 * SETTLING


def test_anchors_pull_less_where_little_is_learnt_at_a_step() -> None:
    planned = plan(Recipe(), 10, 128)
    little, some, much, more = (Pace(replace(planned, batch_size=size)).pull for size in (1, ROWS // 2, ROWS, 2 * ROWS))
    assert 0 < little < some == PULL / 4 < much == more == PULL


def test_a_pace_goes_on_where_another_stopped() -> None:
    one, other = (Pace(replace(plan(Recipe(), 10, 128), rate=1.0, warmup=0)) for _ in range(2))
    one.worse(look(0.5))
    one.slow()
    one.settle(10)
    other.resumed(one.state())
    assert (other.settled, other.rate(15), other.pull) == (one.settled, one.rate(15), one.pull)
    assert other.worse(look(1.6))


def test_the_better_look_has_more_right_and_then_less_loss() -> None:
    assert look(9.0, 1.0, 1.0).better(look(0.1, 1.0, -1.0))
    assert look(0.1, 1.0).better(look(0.2, 1.0))
    assert not look(0.2, 1.0).better(look(0.1, 1.0))
    assert look(9.0).better(None)
    assert look(1.0, 0.5, -0.5).right == 0.5
