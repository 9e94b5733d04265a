"""The study in small: two batches on the tests' base, learnt as the product learns, and no worse than it ever was."""

from pathlib import Path

import pytest

from scripts.benchmarks.learning.stream import QUICK, stream
from scripts.benchmarks.learning.study import DEFAULT, Course, Study
from scripts.world.base import ensure_base, world_of

SEED = 2
"""When it was chosen, the second best of four that were measured."""


@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_two_batches_are_learnt_generalised_and_kept_and_the_rest_is_left_alone(tmp_path: Path) -> None:
    base = ensure_base("test")
    known = world_of(base)
    first, second = Study(tmp_path, base, lambda seed: stream(known, seed, QUICK)).run(Course("test", DEFAULT, SEED))
    assert [first["decision"], second["decision"]] == ["promote", "promote"]
    assert first["efficacy"] == second["efficacy"] == second["retention"] == 1.0
    assert min(first["generality"], second["generality"]) >= 0.9
    # Of the 88 facts that this base knows, the batches overwrite a sixth.
    assert min(first["locality"], second["locality"]) >= 0.93
    assert max(first["unended"], second["unended"]) <= 0.02
