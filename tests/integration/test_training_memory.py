"""What a large batch takes of memory, against what the planner said before: a real child on a model of 34 M."""

import io

import pytest
from rich.console import Console

from daemon.training.engine.memory import MARGIN
from scripts.benchmarks.memory import MANY, Case, measured


@pytest.mark.full
@pytest.mark.timeout(3600)
async def test_a_thousand_corrections_are_trained_within_the_memory_that_was_predicted() -> None:
    found = await measured(Case("34M", MANY), Console(file=io.StringIO()))
    assert found.steps == MANY / 8
    assert found.predicted / 1.15 <= found.peak <= MARGIN * found.predicted
