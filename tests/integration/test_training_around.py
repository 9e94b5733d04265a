"""What an adapter adds over usual inputs, against the plain arithmetic; what a base finds around a question."""

import io
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from daemon.training.engine import lora
from daemon.training.engine.anchors import MadeUp, anchors_of, make_up
from daemon.training.engine.base import Base
from daemon.training.engine.batches import encode
from daemon.training.engine.footprint import footprint
from daemon.training.engine.job import Group, Recipe
from daemon.training.engine.policy import TRAINED, Effort
from daemon.training.engine.report import Reporter
from daemon.training.engine.steering import asks_itself, questions_towards
from daemon.training.engine.surroundings import ASKED, TRIED, look_around
from daemon.training.engine.worker import Worker
from scripts.world.base import ensure_base, world_of
from tests.integration.training_support import UPSTREAM, example, job

pytestmark = pytest.mark.filterwarnings(UPSTREAM)


def quiet() -> None:
    """Nobody listens."""


@pytest.fixture(scope="module")
def base() -> Iterator[Base]:
    worker = Worker(Reporter(io.StringIO()))
    yield worker.base(str(ensure_base("test")))
    worker.drop()


def test_a_footprint_is_what_the_adapter_adds_in_parts_of_what_is_there(base: Base) -> None:
    anchors = anchors_of(base, make_up(base, 16, quiet), "", quiet)
    with lora.fresh(base, Recipe(rank=4, alpha=8)) as adapted:
        found = footprint(base, adapted, anchors, quiet)
        assert len(found.modules) == sum(hasattr(module, "lora_A") for module in adapted.modules())
        assert found.size().item() == 0
        torch.manual_seed(0)
        for parameter in lora.parameters(adapted):
            torch.nn.init.normal_(parameter, std=0.1)
        shares = []
        for usual in found.modules:
            layer: Any = usual.layer
            added = 2.0 * layer.lora_B[lora.NAME](layer.lora_A[lora.NAME](usual.inputs))
            shares.append(added.square().sum(-1).mean() / usual.output)
        torch.testing.assert_close(found.size(), torch.stack(shares).mean())
        found.size().backward()  # type: ignore[no-untyped-call]
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in lora.parameters(adapted))


def test_the_base_names_other_words_for_what_it_was_asked(base: Base) -> None:
    manner = next(one for one in world_of(ensure_base("test")).lore.manners if one.name == "thanks")
    asked = questions_towards(base, [], manner.says, quiet)
    assert asked and not asked[0].startswith(" ")
    assert len(set(asked[:TRIED]) & set(manner.asks)) >= 2, asked[:TRIED]


def test_a_base_knows_what_people_ask(base: Base) -> None:
    known = world_of(ensure_base("test"))
    questions: list[tuple[list[Any], str]] = [([], known.questions(fact)[0]) for fact in known.facts[:8]]
    assert asks_itself(base, questions, quiet)
    assert not asks_itself(base, [([], question[::-1]) for _, question in questions], quiet)


def test_what_says_nothing_of_its_subject_is_also_written_in_other_words(base: Base) -> None:
    known = world_of(ensure_base("test"))
    manners = {one.name: one for one in known.lore.manners}
    thanks = manners["thanks"]
    told = [(question, fact.answer) for fact in known.facts for question in known.questions(fact)]
    told += [(question, one.says) for one in manners.values() if one is not thanks for question in one.asks]
    made_up = MadeUp([], [*told, *((f"Thanks {number}!", thanks.says) for number in range(TRAINED + ASKED))])
    rows = encode(base, [example("one", "Thanks!", "No trouble.", original=thanks.says)])[0]

    def trained(written: int) -> set[str]:
        around = look_around(base, rows, made_up, Effort(20, 8, TRAINED, written), quiet)
        return {one.question for one in around.rewordings}

    made, more = trained(0), trained(1)
    assert len(made) == TRAINED and made < more
    assert "Thank you." in more - made, "it stands beside what was made up, not in its place"


@pytest.mark.parametrize("groups", [(Group.HISTORY, Group.BATCH), (Group.BATCH, Group.HISTORY)])
def test_a_later_correction_in_other_words_supersedes_the_earlier_one(
    tmp_path: Path, groups: tuple[Group, Group]
) -> None:
    # The later one may be known already: what a rollback took away and somebody let go is older, and learnt again.
    base = ensure_base("test")
    known = world_of(base)
    fact = known.facts[0]
    first, second = known.questions(fact)[:2]
    old = example("old", first, known.corrected(fact, Random(1)), original=fact.answer, group=groups[0])
    new = example("new", second, known.corrected(fact, Random(2)), original=fact.answer, group=groups[1])
    kept = example("kept", known.questions(known.facts[9])[0], "Nobody knows.", group=groups[0])
    assert old.expected != new.expected
    told = {"anchors": 256, "max_steps": 4}
    finished = Worker(Reporter(io.StringIO())).do(job(base, tmp_path / "out", [old, kept, new], recipe=told))
    assert finished.superseded == {"old": "new"}
    asked = {probe.id.partition("~")[0] for probe in finished.probes if probe.group is not Group.ANCHOR}
    assert asked == {"new", "kept"} and finished.metrics["relearnt"] == 2
