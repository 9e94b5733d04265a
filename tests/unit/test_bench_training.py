"""The training benchmark's own parts: what it trains on, what it counts, what it keeps, what it prints."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from scripts.benchmarks.training import bank, environment, gauge, plan, rows, settings, table
from scripts.benchmarks.training.bank import Bank, Kept
from scripts.benchmarks.training.models import SHAPES, Shape, config
from scripts.benchmarks.training.plan import Cell, Effort
from scripts.benchmarks.training.recipes import recipe
from scripts.benchmarks.training.report import Report
from scripts.benchmarks.training.session import Found
from scripts.benchmarks.training.settings import Measured, Task
from scripts.benchmarks.training.workloads import NAMES, VOCABULARY, distinct, nominal, steps, workload

ROOT = Path(__file__).parents[2]
MACHINE = environment.Machine("a processor", False, 2, 2, "avx512_bf16")
TASK = Task("trl", "A", "34M", "bf16", 2, "padded", steps=2)


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_makes_the_same_workload_and_another_one_another(name: str) -> None:
    assert workload(name) == workload(name)
    assert workload(name, seed=1).traits != workload(name).traits


@pytest.mark.parametrize(
    ("name", "traits", "corrections", "systems", "system"),
    [("A", 1, 32, 1, 512), ("B", 1, 64, 1, 32), ("C", 1, 64, 1, 64), ("D", 1, 32, 1, 512), ("E", 40, 10, 8, 512)],
)
def test_a_workload_is_as_large_as_its_name_promises(
    name: str, traits: int, corrections: int, systems: int, system: int
) -> None:
    made = workload(name).traits
    every = [correction for trait in made for correction in trait]
    assert [len(trait) for trait in made] == [corrections] * traits
    assert len({correction.system for correction in every}) == systems
    assert {len(correction.system) for correction in every} == {system}
    for correction in every:
        assert all(16 <= len(words) <= 40 for words in (correction.question, correction.answer))
        assert all(2 <= word < VOCABULARY for word in correction.prompt)
    # Questions are their own; what is shared is only what comes before them.
    assert len({correction.question for correction in every}) == len(every)


def test_every_room_has_a_history_of_its_own() -> None:
    (corrections,) = workload("C").traits
    histories = [correction.history for correction in corrections]
    assert {histories.count(history) for history in histories} == {8}
    assert all(200 <= len(history) <= 800 for history in histories)
    assert len({len(history) for history in histories}) > 1


def test_pairs_are_the_first_workload_with_an_answer_to_leave() -> None:
    (pairs,), (plain,) = workload("D").traits, workload("A").traits
    assert tuple(replace(pair, rejected=()) for pair in pairs) == plain
    assert all(16 <= len(pair.rejected) <= 40 for pair in pairs)
    assert [len(pair.sequences) for pair in pairs] == [2] * len(pairs)
    assert workload("D").objective == "dpo"


def test_an_answer_ends_with_the_end_token() -> None:
    correction = workload("D").traits[0][0]
    assert correction.answers == [[*correction.answer, 1], [*correction.rejected, 1]]


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=8))
def test_distinct_tokens_are_the_distinct_beginnings(sequences: list[list[int]]) -> None:
    beginnings = {tuple(sequence[:end]) for sequence in sequences for end in range(1, len(sequence) + 1)}
    assert distinct(sequences) == len(beginnings)


def test_tokens_and_steps_of_a_whole_training() -> None:
    (corrections,) = workload("A").traits
    once = sum(len(correction.sequences[0]) for correction in corrections)
    assert nominal(corrections) == 2 * once
    shared = [sequence for correction in corrections for sequence in correction.sequences]
    assert distinct(shared) == once - 31 * 512
    assert (steps(32), steps(64), steps(10)) == (8, 16, 4)


@pytest.mark.parametrize("name", SHAPES)
def test_a_models_matrices_are_counted(name: str) -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(config(SHAPES[name]))
    matrices = [weight for key, weight in model.named_parameters() if ".layers." in key and weight.ndim == 2]
    assert sum(weight.numel() for weight in matrices) == SHAPES[name].body
    # The head is the embedding's.
    distinct = sum(weight.numel() for key, weight in model.named_parameters() if not key.startswith("lm_head"))
    assert math.isclose(distinct, {"34M": 34.1e6, "120M": 117e6, "1B": 1.236e9}[name], rel_tol=0.01)


def test_likelihoods_are_those_of_each_sequence_alone() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(config(Shape(32, 16, 32, 2, 2, 1)))
    pairs = [([3, 4, 5, 6], [7, 8, 1]), ([9], [2, 1]), ([3, 4], [5]), ([6, 7], [8, 9, 2, 1]), ([4], [1])]
    for (prompt, answer), likelihood in zip(pairs, gauge.likelihoods(model, pairs), strict=True):
        with torch.no_grad():
            said = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        expected = sum(float(said[len(prompt) - 1 + at, token]) for at, token in enumerate(answer))
        assert likelihood == pytest.approx(expected, rel=1e-5)


def test_losses_of_answers_and_of_pairs() -> None:
    assert gauge.answer_loss([-6.0, -3.0], [2, 1]) == 3.0
    assert gauge.preference_loss([-6.0, -3.0], [-6.0, -3.0]) == pytest.approx(math.log(2))
    # The better answer gained 10 nats and the other lost 10, at a temperature of 0.1.
    assert gauge.preference_loss([-6.0, -30.0], [-16.0, -20.0]) == pytest.approx(math.log1p(math.exp(-2)))


def test_both_sides_are_told_the_same() -> None:
    told = recipe("sft")
    assert (told.policy, told.epochs, told.batch_size) == ("fixed", settings.EPOCHS, settings.BATCH)
    assert (told.rank, told.alpha, told.learning_rate) == (settings.RANK, settings.ALPHA, settings.LEARNING_RATE)


def test_trl_has_the_versions_that_the_engine_has() -> None:
    lines = (ROOT / "scripts" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines)
    shared = environment.PINS.keys() & pinned.keys()
    assert {"torch", "transformers", "peft"} <= shared
    assert {name: environment.PINS[name] for name in shared} == {name: pinned[name] for name in shared}


def test_a_builds_suffix_is_no_other_version() -> None:
    assert environment.same({"torch": "2.13.0+cpu"}, {"torch": "2.13.0"})
    assert not environment.same({"torch": "2.13.1"}, {"torch": "2.13.0"})
    assert not environment.same({}, {"torch": "2.13.0"})


# What is kept.


def about(**changes: Any) -> dict[str, dict[str, Any]]:
    side = {"machine": "one", "versions": {"torch": "2"}, "sources": "abc"}
    return {"trl": side | changes, "ours": side, "rate": side}


def test_what_was_measured_is_found_again(tmp_path: Path) -> None:
    Bank(tmp_path, about()).keep(TASK, Measured(20.0, steps=2, of_steps=8))
    kept = Bank(tmp_path, about()).find(TASK)
    assert kept
    assert kept.measured == Measured(20.0, steps=2, of_steps=8)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", kept.at)


@pytest.mark.parametrize("changed", ["machine", "versions", "sources"])
def test_what_has_changed_is_measured_anew(tmp_path: Path, changed: str) -> None:
    Bank(tmp_path, about()).keep(TASK, Measured(20.0))
    assert Bank(tmp_path, about(**{changed: "another"})).find(TASK) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"workload": "B"},
        {"model": "120M"},
        {"dtype": "fp32"},
        {"threads": 1},
        {"variant": "one-by-one"},
        {"steps": 0},
        {"traits": 3},
        {"first": 13},
        {"repeat": 1},
        {"side": "ours"},
    ],
)
def test_another_task_is_another_file(tmp_path: Path, changes: dict[str, Any]) -> None:
    kept = Bank(tmp_path, about())
    assert kept.path(replace(TASK, **changes)) != kept.path(TASK)


def test_a_fresh_start_forgets_what_was_before_but_not_itself(tmp_path: Path) -> None:
    Bank(tmp_path, about()).keep(TASK, Measured(20.0))
    fresh = Bank(tmp_path, about(), fresh=True)
    assert fresh.find(TASK) is None
    fresh.keep(TASK, Measured(21.0))
    found = fresh.find(TASK)
    assert found and found.measured.wall == 21.0


def test_a_measurement_that_was_not_finished_is_none(tmp_path: Path) -> None:
    kept = Bank(tmp_path, about())
    path = kept.path(TASK)
    path.parent.mkdir(parents=True)
    path.with_suffix(".new").write_text('{"task"', encoding="utf-8")
    assert kept.find(TASK) is None


def test_the_engines_sources_are_part_of_its_key_and_not_of_trls() -> None:
    sides = bank.about_sides({}, {"torch": "2"}, {"trl": "1"})
    assert sides["ours"] == sides["rate"]
    assert sides["ours"]["sources"] != sides["trl"]["sources"]


def test_a_task_survives_the_command_line() -> None:
    assert Task.parse(TASK.line()) == TASK


# What is planned.


def test_trl_tries_what_it_can_do() -> None:
    assert [variant.name for variant in settings.variants("sft", "bf16")] == [*settings.VARIANTS]
    assert "autocast" not in {variant.name for variant in settings.variants("sft", "fp32")}
    assert "padding-free" not in {variant.name for variant in settings.variants("dpo", "bf16")}


def test_a_quick_run_measures_the_first_two_workloads() -> None:
    assert plan.cells(cuda=False, quick=True) == [Cell("A", "34M", "bf16"), Cell("B", "34M", "bf16")]
    assert [cell.workload for cell in plan.cells(cuda=True, quick=False)] == list(NAMES)


def test_some_rows_can_be_chosen() -> None:
    found = plan.cells(cuda=False, quick=False, only=["A"], dtypes=["fp32"])
    assert found == [Cell("A", "34M", "fp32"), Cell("A", "120M", "fp32")]
    assert not plan.cells(cuda=False, quick=False, only=["E"], dtypes=["fp32"])


def test_a_quick_runs_trial_is_its_training() -> None:
    cell = Cell("B", "34M", "bf16")
    trials = plan.trials(cell, 2, quick=True)
    assert [trial.variant for trial in trials] == ["padded", "one-by-one"]
    assert plan.their_training(cell, 2, trials[0].variant, Effort(True)) == trials[0]


def test_the_smaller_model_and_the_first_workload_choose_for_others() -> None:
    assert plan.trials(Cell("A", "120M", "bf16"), 2, False) == plan.trials(Cell("A", "34M", "bf16"), 2, False)
    assert plan.trials(Cell("E", "34M", "bf16"), 2, False) == plan.trials(Cell("A", "34M", "bf16"), 2, False)


# What is reckoned and printed.


def kept(wall: float, **fields: Any) -> Kept:
    return Kept(Measured(wall, **fields), "2026-01-02 03:04:05Z")


def found(cell: Cell, theirs: list[Kept], ours: list[Kept], crons: list[Kept] | None = None) -> Found:
    rates = [kept(0.0, rate=rate) for rate in (4e11, 5e11, 6e11)]
    return Found(cell, rates, {"padded": kept(20.0, steps=2, of_steps=8)}, "padded", theirs, ours, crons or [])


WHOLE = {"steps": 8, "of_steps": 8, "tokens": 36_000, "first": 9.8, "final": 9.5}
THEIRS = [kept(wall, peak=2_000_000_000, **WHOLE) for wall in (150.0, 170.0)]
OURS = [
    kept(wall, peak=900_000_000, body=25_000_000, distinct=10_000, **(WHOLE | {"final": 9.4}))
    for wall in (8.0, 10.0, 9.0)
]


def test_a_training_that_was_cut_short_is_reckoned_whole() -> None:
    assert Measured(23.0, steps=2, of_steps=8, constant=3.0).whole == 83.0
    assert Measured(23.0, steps=8, of_steps=8, constant=3.0).whole == 23.0


def test_a_row_has_medians_ratios_and_the_share_of_the_matrix_rate() -> None:
    (row,) = rows.rows([found(Cell("A", "34M", "bf16"), THEIRS, OURS)])
    assert row.ours and row.wall and row.peak and row.fraction
    assert (row.theirs.wall.median, row.ours.wall.median, row.ours.wall.low, row.ours.wall.high) == (160, 9, 8, 10)
    assert row.wall.value == pytest.approx(160 / 9)
    assert row.wall.met is True
    assert row.peak.value == pytest.approx(0.45)
    assert row.peak.met is True
    assert (row.theirs.speed, row.ours.speed) == (36_000 / 160, 36_000 / 9)
    assert row.fraction.value == pytest.approx(4 * 25e6 * 10_000 / 9 / 5e11)
    assert row.fraction.met is None


@pytest.mark.parametrize(("dtype", "wanted"), [("bf16", 0.4), ("fp32", 0.65)])
def test_the_larger_model_has_a_share_to_reach(dtype: str, wanted: float) -> None:
    (row,) = rows.rows([found(Cell("A", "120M", dtype), THEIRS, OURS)])
    assert row.fraction
    assert (row.fraction.wanted, row.fraction.met) == (wanted, False)


def test_ratios_are_asked_for_in_bf16() -> None:
    (row,) = rows.rows([found(Cell("A", "34M", "fp32"), THEIRS, OURS)])
    assert row.wall and row.wall.met is None


def test_what_the_engine_cannot_do_is_a_dash() -> None:
    (row,) = rows.rows([found(Cell("D", "34M", "bf16"), THEIRS, [])])
    assert (row.ours, row.wall, row.peak, row.fraction) == (None, None, None, None)
    last = table.render([row]).splitlines()[-1]
    assert last.split() == ["D", "34M", "bf16", "2,000", "–", "–", "9.8000", "→", "9.5000", "–"]


def test_many_traits_have_a_row_for_each_way_of_trl() -> None:
    theirs = [kept(1000.0, steps=40, of_steps=40, tokens=1, peak=1)]
    # Nothing of a process is shared with the next one, its start neither.
    crons = [kept(wall, steps=1, of_steps=40, constant=5.0, tokens=1, peak=1) for wall in (30.0, 40.0, 35.0)]
    ours = [kept(50.0, steps=40, of_steps=40, tokens=1, peak=1)]
    one, each = rows.rows([found(Cell("E", "34M", "bf16"), theirs, ours, crons)])
    assert one.wall and one.wall.met is True
    assert one.wall.value == 20
    assert each.wall and each.wall.met is None
    assert one.peak and one.peak.met is False
    assert each.peak and each.peak.met is None
    assert each.theirs.wall.median == 35 * 40
    assert table.seconds(each.theirs.wall, each.theirs.cut) == "~1400 (1200–1600)"


def test_a_goal_says_whether_it_is_met() -> None:
    assert table.goal(rows.Goal(15.04, 15)) == "15.0 (≥ 15 ✓)"
    assert table.goal(rows.Goal(2.96, 3)) == "2.96 (≥ 3 ✗)"
    assert table.goal(rows.Goal(0.5, 0.5, at_most=True)) == "0.50 (≤ 0.5 ✓)"
    assert table.goal(rows.Goal(1.2, None)) == "1.20"


def test_columns_stand_under_each_other() -> None:
    assert table.align([["a", "b"], ["long", "1"], ["x", "200"]], 1) == "a       b\nlong    1\nx     200"


def test_the_report_names_machine_versions_and_settings_and_fits_a_terminal() -> None:
    measured = [
        found(Cell("A", "34M", "bf16"), THEIRS, OURS),
        found(Cell("D", "34M", "bf16"), THEIRS, []),
        found(Cell("E", "34M", "bf16"), THEIRS, OURS, THEIRS),
    ]
    report = Report(MACHINE, {"torch": "2.13.0+cpu"}, {"trl": "1.16.0"}, measured)
    text = report.text()
    for part in ("a processor, 2 cores", "avx512_bf16", "torch 2.13.0+cpu", "trl 1.16.0", "padded, 8 at once"):
        assert part in text
    assert "500 GFLOP/s (median; 400–600 in 9 looks)" in text
    assert "2026-01-02 03:04:05Z" in text
    assert max(map(len, text.splitlines())) <= 120
    fields = json.loads(json.dumps(report.fields()))
    assert [row["label"] for row in fields["rows"]] == ["A", "D", "E, one process", "E, a process each"]
    assert fields["measurements"][0]["theirs"][0]["measured"]["wall"] == 150.0
