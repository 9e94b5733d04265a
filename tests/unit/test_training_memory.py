"""The memory planner: the fastest way that fits, what it costs, and the sentence where nothing fits."""

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from daemon.training.engine.memory import BUDGETS, MARGIN, TYPICAL, Fit, NothingFits, Room, Shape, Work, fastest, peak
from tests.integration.training_support import FAMILIES, tiny_base

BILLION = Shape(
    parameters=1_236_000_000,
    linear=973_000_000,
    edges=1_600_000,
    layers=16,
    width=2048,
    inner=8192,
    heads=32,
    head_width=64,
    vocabulary=128_256,
    stored=2_472_000_000,
)
"""Llama-3.2-1B's."""
SHARED = Work(1000, 600, 500, 250, read={1024: 1000, 512: 4000})
"""Eight corrections under one long system prompt: parted, each part reads it again."""
APART = replace(SHARED, longest=120, read={1024: 1000, 512: 1000})
BF16 = Fit(2)


def ways(work: Work, *, can_quantise: bool) -> list[Fit]:
    """What is chosen as memory shrinks, until nothing fits."""
    found: list[Fit] = []
    available = 1 << 40
    while True:
        try:
            way = fastest(BILLION, work, BF16, Room(available), can_quantise)
        except NothingFits:
            return found
        needed = int(MARGIN * peak(BILLION, work, way))
        assert needed <= available
        found.append(way)
        available = needed - 1


def test_where_there_is_room_everything_is_read_at_once_and_kept() -> None:
    assert fastest(BILLION, SHARED, BF16, Room(1 << 40), True) == Fit(2, BUDGETS[0])


def test_layers_are_computed_twice_before_a_long_beginning_is_read_four_times() -> None:
    assert [(way.recompute, way.tokens) for way in ways(SHARED, can_quantise=False)] == [
        (False, 4096),
        (True, 4096),
    ]


def test_layers_that_cannot_be_computed_twice_are_not_planned_to_be() -> None:
    once = replace(BF16, can_recompute=False)
    tight = Room(int(MARGIN * peak(BILLION, SHARED, replace(BF16, recompute=True))) + 1)
    assert fastest(BILLION, SHARED, BF16, tight, False).recompute
    assert fastest(BILLION, SHARED, once, tight, False) == replace(once, tokens=BUDGETS[-1])


def test_a_batch_without_much_in_common_is_parted_before_layers_are_computed_twice() -> None:
    assert [(way.recompute, way.tokens) for way in ways(APART, can_quantise=False)][:2] == [(False, 4096), (False, 512)]


def test_four_bits_are_the_last_resort() -> None:
    found = [way.four_bits for way in ways(APART, can_quantise=True)]
    assert found == sorted(found) and found[-1]


def test_what_fits_nowhere_is_refused_with_what_is_missing() -> None:
    with pytest.raises(NothingFits, match=r"training needs at least \d\.\d\d GiB of memory and 1\.00 GiB are there"):
        fastest(BILLION, TYPICAL, BF16, Room(1 << 30), True)
    coarse = Fit(2, tokens=BUDGETS[-1], recompute=True, four_bits=True)
    least = f"training needs at least {MARGIN * peak(BILLION, TYPICAL, coarse) / 2**30:.2f} GiB"
    for best, can_quantise in ((Fit(2), True), (Fit(2, four_bits=True), False)):
        with pytest.raises(NothingFits, match=least):
            fastest(BILLION, TYPICAL, best, Room(1 << 30), can_quantise)
    with pytest.raises(NothingFits, match=r"and max_memory_gb allows 1\.00"):
        fastest(BILLION, TYPICAL, BF16, Room(1 << 30, 1.0), True)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_tells_the_shape_of_its_model(family: str, tmp_path: Path) -> None:
    folder = tiny_base(tmp_path / "base", family)
    model = AutoModelForCausalLM.from_pretrained(folder)
    shape = Shape.of(folder)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert (shape.layers, shape.width, shape.vocabulary) == (2, 64, model.config.vocab_size)
    assert shape.stored == (folder / "model.safetensors").stat().st_size
