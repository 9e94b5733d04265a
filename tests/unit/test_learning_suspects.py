"""Who is to blame for a rejection, found with as few trainings as may be."""

from collections.abc import Collection

import pytest

from daemon.config.sections import Gate
from daemon.domain import Correction, Kind, TraitKey
from daemon.learning.suspects import Suspects, suspects
from daemon.training.engine.job import Answer, Group, Probe

RIGHT, WRONG = Answer("right", True, 1.0, 2.0), Answer("wrong", False, 0.0, -2.0)


def correction(name: str, author: str | None = None) -> Correction:
    key = TraitKey("ada", "rust")
    return Correction(name, key, "?", "no", "yes", "", 0.5, Kind.CORRECTION, "test", author, 0.0)


def probes(names: Collection[str], wrong: Collection[str] = ()) -> list[Probe]:
    return [Probe(name, Group.BATCH, WRONG, WRONG if name in wrong else RIGHT) for name in names]


class Batch:
    """A batch that passes the gate when these are left out of it."""

    def __init__(self, *guilty: str) -> None:
        self.guilty, self.tried = set(guilty), list[set[str]]()

    async def passes(self, without: Collection[str]) -> bool:
        self.tried.append(set(without))
        return self.guilty <= set(without)


NAMES = [f"c{number}" for number in range(8)]


async def test_what_was_not_learnt_is_to_blame_and_costs_no_training() -> None:
    batch = Batch()
    found = await suspects([*map(correction, NAMES)], probes(NAMES, ["c1", "c2"]), Gate(), batch.passes)
    assert (found, batch.tried) == (Suspects(("c1", "c2"), unlearnt=True), [])


async def test_an_author_is_found_before_items_are() -> None:
    rows = [correction(name, "eve" if name in ("c1", "c2") else "bob") for name in NAMES]
    batch = Batch("c2")
    found = await suspects(rows, probes(NAMES), Gate(), batch.passes)
    assert found == Suspects(("c2",), "eve", 4)
    assert batch.tried == [set(NAMES) - {"c1", "c2"}, {"c1", "c2"}, {"c1"}, {"c2"}]


async def test_of_many_items_the_half_is_found_that_they_are_in() -> None:
    batch = Batch("c5")
    found = await suspects([*map(correction, NAMES)], probes(NAMES), replaced(suspects=6), batch.passes)
    assert found.ids == ("c5",) and found.tried == len(batch.tried) <= 6


@pytest.mark.parametrize("guilty", [("c0", "c7"), ("none",)])
async def test_nobody_is_blamed_where_no_ones_absence_helps(guilty: tuple[str, ...]) -> None:
    batch = Batch(*guilty)
    found = await suspects([*map(correction, NAMES)], probes(NAMES), Gate(), batch.passes)
    assert found == Suspects((), None, 2)


async def test_authors_do_not_use_up_what_items_need() -> None:
    batch = Batch("c5")
    rows = [correction(name, f"author of {name}") for name in NAMES]
    found = await suspects(rows, probes(NAMES), replaced(suspects=6), batch.passes)
    # Three of eight authors are tried, then both halves, and half of one; of the two left, no training is left to tell.
    assert found == Suspects(("c4", "c5"), None, 6)
    assert batch.tried[:3] == [{"c0"}, {"c1"}, {"c2"}]


async def test_nobody_is_blamed_where_no_training_said_so() -> None:
    batch = Batch("none")
    rows = [correction(name, f"author of {name}") for name in NAMES]
    found = await suspects(rows, probes(NAMES), replaced(suspects=2), batch.passes)
    assert found == Suspects((), None, 2)


async def test_the_only_author_with_a_name_is_tried() -> None:
    batch = Batch("c1", "c2")
    rows = [correction(name, "eve" if name in ("c1", "c2") else None) for name in NAMES]
    found = await suspects(rows, probes(NAMES), Gate(), batch.passes)
    assert found == Suspects(("c1", "c2"), "eve", 3)


async def test_nothing_is_tried_where_nothing_may_be() -> None:
    batch = Batch("c5")
    found = await suspects([*map(correction, NAMES)], probes(NAMES), replaced(suspects=0), batch.passes)
    assert (found, batch.tried) == (Suspects(), [])


async def test_who_came_alone_is_to_blame() -> None:
    batch = Batch()
    assert await suspects([correction("c0")], probes(["c0"]), Gate(), batch.passes) == Suspects(("c0",))
    assert batch.tried == []


def replaced(**keys: int) -> Gate:
    return Gate(**keys)
