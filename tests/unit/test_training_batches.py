"""Groups and minibatches: everything once, within the budget, in ever new orders, kin beside kin."""

import json
from random import Random

from daemon.training.engine.batches import Draw, by_length
from daemon.training.engine.packing.tree import kinship


def test_groups_by_length_hold_everything_once_within_the_budget() -> None:
    lengths = [Random(3).randrange(1, 50) for _ in range(40)]
    groups = list(by_length(range(40), lambda at: lengths[at], 100))
    assert sorted(at for group in groups for at in group) == list(range(40))
    assert all(max(lengths[at] for at in group) * len(group) <= 100 for group in groups)
    assert list(by_length([7], lambda at: 1000, 100)) == [[7]]


def test_minibatches_visit_every_item_once_per_epoch_in_a_new_order() -> None:
    draw = Draw(range(10), 4, Random(0))
    epochs = [[item for _ in range(3) for item in draw.next()] for _ in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert Draw([], 4, Random(0)).next() == []


def test_kin_are_drawn_together_and_strangers_at_random() -> None:
    rooms = [[1] * 40 + [2 + room] * 40 + [100 + at] for at in range(4) for room in range(3)]
    kin = kinship(rooms)
    draw = Draw(range(12), 4, Random(0), kin)
    epochs = [[draw.next() for _ in range(3)] for _ in range(5)]
    for epoch in epochs:
        assert sorted(item for part in epoch for item in part) == list(range(12))
        assert all(len({item % 3 for item in part}) == 1 for part in epoch)
    assert len({tuple(tuple(part) for part in epoch) for epoch in epochs}) == 5
    assert len(set(kinship([[1] * 40 + [at] for at in range(5)]))) == 1


def test_a_draw_goes_on_where_another_stopped() -> None:
    random, same = Random(1), Random(2)
    one, other = Draw(range(10), 3, random), Draw([], 3, same)
    one.next()
    other.resumed(json.loads(json.dumps(one.state())))
    same.setstate(random.getstate())
    # Past what was waiting, into the next epochs.
    assert [one.next() for _ in range(9)] == [other.next() for _ in range(9)]


def test_what_is_dropped_is_drawn_no_more_once_the_epoch_is_over() -> None:
    draw = Draw(range(6), 3, Random(0))
    first = draw.next()
    draw.drop(first)
    rest = draw.next()
    assert sorted([*first, *rest]) == list(range(6)) and not draw.empty
    assert sorted(draw.next()) == sorted(rest)
    draw.drop(rest)
    assert draw.empty and draw.next() == []
