"""How much may have been lost: the bound, and what it is worth."""

from random import Random

import pytest

from daemon.learning.bounds import by_cluster, enough, lost_at_most


@pytest.mark.parametrize("clusters", [30, 60, 150, 300])
def test_nothing_lost_bounds_the_share_by_the_rule_of_three(clusters: int) -> None:
    assert lost_at_most([0.0] * clusters, 0.95) == pytest.approx(3 / clusters, rel=0.05)
    assert enough(clusters, 6 / clusters) and not enough(clusters - 1, 6 / clusters)
    assert lost_at_most([1.0, *[0.0] * (clusters - 1)], 0.95) < 6 / clusters, "one may be lost of just enough"


def test_of_nothing_asked_everything_may_be_lost() -> None:
    assert lost_at_most([], 0.95) == 1.0
    assert not enough(1_000, 0.0)


def test_the_bound_holds_as_often_as_it_says() -> None:
    random = Random(1)
    for share in (0.02, 0.1, 0.3):
        found = [lost_at_most([float(random.random() < share) for _ in range(80)], 0.95) for _ in range(60)]
        assert sum(bound >= share for bound in found) >= 0.9 * 60


def test_phrasings_of_one_correction_are_one_cluster() -> None:
    lost = [("a", True), ("a", False), ("b", True), ("b", True), ("c-1", False)]
    assert by_cluster(lost) == [0.5, 1.0, 0.0]
    # Ten corrections of four phrasings each, two of them lost whole, tell less than forty that stand alone.
    together = by_cluster([(f"{at}", at < 2) for at in range(10) for _ in range(4)])
    alone = by_cluster([(f"{at}", at < 8) for at in range(40)])
    assert lost_at_most(together, 0.95) > lost_at_most(alone, 0.95) + 0.1
