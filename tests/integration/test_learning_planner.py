"""What is due becomes runs: bursts, wake times, cron, and what hinders a trait."""

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from daemon.domain import RunState, TraitKey
from daemon.learning.hindrance import base_problem
from daemon.learning.planner import Ask, Planner, Wishes
from daemon.learning.status import document
from daemon.store.rows import iso
from tests.integration.learning_support import School, a_school
from tests.integration.store_support import ADA, execute, write

BOB = TraitKey("bob", "rust")
NIGHTLY = "0 3 * * *"


@pytest.fixture
async def school(tmp_path: Path) -> AsyncIterator[School]:
    async with a_school(tmp_path) as opened:
        yield opened


async def test_nothing_pending_plans_nothing(school: School) -> None:
    made = await school.plan(asks=(Ask("me"),))
    assert (made.runs, made.judgements, made.again_in) == ([], [], None)


async def test_a_burst_is_let_finish(school: School) -> None:
    write(school.path, "one", "two")
    made = await school.planner.plan(Wishes())
    assert made.runs == [] and made.again_in == pytest.approx(2)
    assert made.judgements[0].due.why == "2 of 2 corrections; waiting for the burst to end"
    school.moment += 1.5
    write(school.path, "three")
    assert (await school.planner.plan(Wishes())).again_in == pytest.approx(2)
    school.moment += 2
    (run,) = (await school.planner.plan(Wishes())).runs
    assert len(await school.store.corrections.claimed_by(run.id)) == 3


async def test_a_burst_that_never_ends_is_cut_after_ten_quiet_periods(school: School) -> None:
    looks = 0
    while not (await school.planner.plan(Wishes())).runs:
        write(school.path, f"row{looks}")
        looks += 1
        school.moment += 1
        assert looks < 100
    assert 20 <= school.moment <= 23


async def test_a_clock_that_jumps_ends_no_burst_and_causes_no_storm(school: School) -> None:
    school.configure("[triggers]\nmax_wait = '1h'", PERSONA_TRIGGERS__MIN_CORRECTIONS="10")
    write(school.path, "one", received_at=iso(school.now))
    for jump in (-365, 0):
        school.now += jump * 86_400
        made = await school.plan()
        assert made.runs == [] and made.again_in == pytest.approx(3_600, abs=0.01)
    school.now += 800 * 86_400
    assert len((await school.plan()).runs) == 1
    assert (await school.plan()).runs == []


async def test_it_says_when_the_oldest_will_have_waited_long_enough(school: School) -> None:
    write(school.path, "one", received_at=iso(school.now - 3_600))
    made = await school.plan()
    assert made.runs == [] and made.again_in == pytest.approx(23 * 3_600, abs=0.01)
    school.now += 23 * 3_600 + 1
    (run,) = (await school.plan()).runs
    assert run.planned_because == "the oldest waited 24 h"


async def test_each_due_trait_gets_a_run_of_its_own(school: School) -> None:
    write(school.path, "one", "two")
    write(school.path, "three", "four", key=BOB)
    write(school.path, "five", key=TraitKey("bob", "cooking"))
    with capture_logs() as logs:
        made = await school.plan()
    assert [(run.key, run.version) for run in made.runs] == [(ADA, 1), (BOB, 1)]
    assert [log["persona"] for log in logs if log["event"] == "run.planned"] == ["ada", "bob"]
    write(school.path, "six", "seven")
    again = await school.plan(asks=(Ask("me", "ada", "rust"),))
    assert again.runs == []
    assert again.judgements[0].due.why == "a run of it is under way; what came later is trained after it"


async def test_wishes_reach_whom_they_name(school: School) -> None:
    write(school.path, "one")
    write(school.path, "two", key=BOB)
    assert (await school.plan(asks=(Ask("me", "carol"), Ask("me", trait="cooking")))).runs == []
    (run,) = (await school.plan(asks=(Ask("me", "bob"),))).runs
    assert (run.key, run.planned_because) == (BOB, "me asked")
    (run,) = (await school.plan(asks=(Ask("me", trait="rust"),))).runs
    assert run.key == ADA


async def test_a_cron_time_trains_what_names_it(school: School) -> None:
    school.configure(f"[personas.ada.triggers]\ncron = '{NIGHTLY}'")
    write(school.path, "one")
    write(school.path, "two", key=BOB)
    (run,) = (await school.plan(cron=frozenset({NIGHTLY}))).runs
    assert (run.key, run.planned_because) == (ADA, f"cron {NIGHTLY}")


async def test_a_cron_time_in_a_burst_is_not_lost(school: School) -> None:
    school.configure(f"[triggers]\ncron = '{NIGHTLY}'")
    write(school.path, "one")
    assert (await school.planner.plan(Wishes(cron=frozenset({NIGHTLY})))).runs == []
    school.moment += 2
    (run,) = (await school.planner.plan(Wishes())).runs
    assert run.planned_because == f"cron {NIGHTLY}"
    await school.conduct()
    write(school.path, "two")
    assert (await school.plan()).runs == [], "one time trains once"


async def test_a_cron_time_while_a_run_is_under_way_is_not_lost(school: School) -> None:
    school.configure(f"[triggers]\ncron = '{NIGHTLY}'")
    write(school.path, "one", "two")
    await school.plan()
    write(school.path, "three")
    assert (await school.plan(cron=frozenset({NIGHTLY}))).runs == []
    assert (await school.conduct()).state is RunState.PROMOTED
    (run,) = (await school.plan()).runs
    assert run.planned_because == f"cron {NIGHTLY}"


async def test_what_is_asked_for_while_a_run_is_under_way_is_trained_after_it(school: School) -> None:
    write(school.path, "one", "two")
    await school.plan()
    write(school.path, "three")
    assert (await school.plan(asks=(Ask("me"),))).runs == []
    assert school.planner.owes
    await school.conduct()
    write(school.path, "four", key=BOB)
    (run,) = (await school.plan()).runs
    assert (run.key, run.planned_because) == (ADA, "me asked"), "what came later, of that trait, and once"
    await school.conduct()
    write(school.path, "five")
    assert (await school.plan()).runs == [] and not school.planner.owes


async def test_a_run_that_waits_for_its_next_attempt_is_hurried_by_who_asks_for_it(school: School) -> None:
    write(school.path, "one", "two")
    (run,) = (await school.plan()).runs
    run = await school.store.runs.take(run)
    await school.store.runs.retry(run, "out of memory", school.now + 600, failed=True)
    await school.plan(asks=(Ask("me", "bob"),))
    assert (await school.run(run.id)).not_before > school.now
    await school.plan(asks=(Ask("me", "ada"),))
    assert (await school.run(run.id)).not_before == 0


async def test_of_a_run_that_waits_for_its_next_attempt_the_status_says_how_long(school: School) -> None:
    write(school.path, "one", "two")
    (run,) = (await school.plan()).runs
    run = await school.store.runs.take(run)
    await school.store.runs.retry(run, "out of memory", time.time() + 600, failed=True)
    told = await document(school.store, school.config, {"state": "ready"})
    assert 500 < told["runs"][0]["again_in_s"] <= 600
    assert told["traits"][0]["why"] == "its run waits for its next attempt"
    await school.store.runs.hurry(await school.run(run.id))
    told = await document(school.store, school.config, {"state": "ready"})
    assert (told["runs"][0]["again_in_s"], told["traits"][0]["why"]) == (0, "a run of it is under way")


async def test_a_run_that_waits_for_its_next_attempt_is_hurried_by_other_settings_of_its_own(school: School) -> None:
    write(school.path, "one", "two")
    (run,) = (await school.plan()).runs
    run = await school.store.runs.take(run)
    await school.plan()
    run = await school.store.runs.retry(run, "max_memory_gb allows 0.10", school.now + 600, failed=False)
    await school.plan()
    school.configure("[personas.bob.training]\nmax_memory_gb = 2\n")
    await school.plan()
    assert (await school.run(run.id)).not_before > school.now
    school.configure("[personas.ada.training]\nmax_memory_gb = 2\n")
    await school.plan()
    assert (await school.run(run.id)).not_before == 0

    # While it is at work they count from its next attempt on.
    run = await school.store.runs.take(await school.run(run.id))
    await school.plan()
    school.configure("[personas.ada.training]\nmax_memory_gb = 3\n")
    await school.plan()
    run = await school.store.runs.retry(run, "max_memory_gb allows 2.00", school.now + 600, failed=False)
    await school.plan()
    assert (await school.run(run.id)).not_before == 0

    # What it was tried under before this process began, nobody knows.
    run = await school.store.runs.take(await school.run(run.id))
    await school.store.runs.retry(run, "max_memory_gb allows 3.00", school.now + 600, failed=False)
    again = Planner(school.store, school.layers, lambda: school.config, clock=school.clock)
    await again.plan(Wishes())
    assert (await school.run(run.id)).not_before == 0


async def test_invariant_11_a_row_that_no_run_can_name_is_set_aside_and_said_so(school: School) -> None:
    write(school.path, "one")
    columns = "id, persona_id, trait_type, original_response, expected_response"
    execute(
        school.path,
        f"INSERT INTO training_corrections ({columns}) VALUES (CAST(x'ff41' AS TEXT), 'ada', 'rust', 'no', 'yes')",
    )
    with capture_logs() as logs:
        (run,) = (await school.plan()).runs
    assert [row.id for row in await school.store.corrections.claimed_by(run.id)] == ["one"]
    (said,) = [log for log in logs if log["event"] == "corrections.quarantined"]
    assert (said["persona"], said["trait"], said["corrections"], said["ids"]) == ("ada", "rust", 1, ["\\udcffA"])
    assert said["reason"] == "id is not valid UTF-8; insert it again without one"


async def test_looking_changes_nothing(school: School) -> None:
    write(school.path, "one", "two")
    (judgement,) = await school.planner.judge()
    assert judgement.due.due and await school.store.runs.live() == []


async def test_without_a_base_model_nothing_is_trained_and_the_sentence_says_what_to_do(
    school: School, tmp_path: Path
) -> None:
    write(school.path, "one", "two")
    base = school.config.defaults.base_model
    for folder, sentence in {
        "": "no base model; set defaults.base_model, or personas.ada.base_model",
        str(tmp_path / "nowhere"): f"no base model at {tmp_path}/nowhere; put one there, or correct base_model",
    }.items():
        school.configure(f"[personas.bob]\nbase_model = '{base}'", PERSONA_DEFAULTS__BASE_MODEL=folder)
        made = await school.plan(asks=(Ask("me"),))
        assert made.runs == [] and made.judgements[0].due.why == sentence
    write(school.path, "three", "four", key=BOB)
    assert [run.key for run in (await school.plan()).runs] == [BOB]


@pytest.mark.parametrize("name", ["org/model", "some-model"])
def test_a_model_of_the_hub_is_known_by_its_name_alone(name: str) -> None:
    assert base_problem("ada", name) is None
