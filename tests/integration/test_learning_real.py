"""The whole of learning with the real trainer on the pretrained base: what was undone stays undone."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from daemon.domain import Run, RunState, TraitKey
from daemon.genome.directories import LayerDirectories
from daemon.learning.admin import Admin
from daemon.learning.conductor import Conductor
from daemon.learning.planner import Planner, Wishes
from daemon.store.store import Store
from daemon.training.engine.job import Group
from daemon.training.local import ChildLimits, LocalTrainer
from scripts.world.facts import World
from tests.integration.learning_support import configured
from tests.integration.store_support import ADA, a_store, speaks, where, write


@dataclass
class Class:
    """A store, a conductor with the real trainer, and a world to be corrected in."""

    store: Store
    path: Path
    layers: LayerDirectories
    conductor: Conductor
    planner: Planner
    admin: Admin
    world: World

    def correct(self, first: int, key: TraitKey = ADA) -> list[str]:
        """Two corrections of facts that the base model knows otherwise."""
        names = []
        for number in (first, first + 1):
            fact = self.world.facts[number * 7]
            names += write(
                self.path,
                f"fact{number}",
                original_context=self.world.questions(fact)[0],
                original_response=fact.answer,
                expected_response=self.world.corrected(fact, Random(number)),
                severity=1,
                key=key,
            )
        return names

    async def learn(self) -> Run:
        """What becomes of a batch, a second try after a rejection included."""
        (run,) = (await self.planner.plan(Wishes(hurried=True))).runs
        return await self.carry(run)

    async def make(self, kind: str, **args: object) -> Run:
        """What becomes of a layer that is made of others, which is not trained where the gate refuses it."""
        await self.store.requests.ask(kind, args, "me")
        await self.admin.serve()
        (run,) = await self.store.runs.live()
        await self.conductor.conduct(run)
        ended = await self.store.runs.get(run.id)
        assert ended is not None
        return ended

    async def carry(self, run: Run) -> Run:
        """What becomes of a planned run."""
        for _ in range(2):
            await self.conductor.conduct(run)
            ended = await self.store.runs.get(run.id)
            assert ended is not None
            run = ended
            if run.state is not RunState.PLANNED:
                break
        return run


@pytest.fixture
async def learning(tmp_path: Path, base: Path, world: World) -> AsyncIterator[Class]:
    trainer = LocalTrainer(ChildLimits(nice=0))
    config = configured(tmp_path, str(base), "[training]\nthreads = 1\nrank = 8\nalpha = 16\nanchors = 256")
    path, layers = tmp_path / "store" / "persona.db", LayerDirectories(tmp_path / "layers")
    async with a_store(path) as store:
        conductor, planner = Conductor(store, layers, trainer, lambda: config), Planner(store, layers, lambda: config)
        try:
            yield Class(store, path, layers, conductor, planner, Admin(store, layers, planner), world)
        finally:
            await trainer.close()


async def test_invariant_6_a_rollback_stays_rolled_back(learning: Class) -> None:
    first = learning.correct(1)
    assert (await learning.learn()).state is RunState.PROMOTED
    second = learning.correct(3)
    assert (await learning.learn()).state is RunState.PROMOTED
    await learning.store.requests.ask("rollback", {"persona": "ada", "trait": "rust"}, "me")
    await learning.admin.serve()
    assert await speaks(learning.store) == 1
    assert (await learning.planner.plan(Wishes(hurried=True))).runs == [], "what was undone counts toward nothing"
    third = learning.correct(5)
    run = await learning.learn()
    assert (run.state, await speaks(learning.store)) == (RunState.PROMOTED, 3)
    manifest = learning.layers.verify(str(run.layer_path))
    assert (manifest.learnt, manifest.rehearsed) == (third, first)
    asked = {probe["id"].partition("~")[0] for probe in run.evidence["probes"] if probe["group"] != Group.ANCHOR}
    assert asked == {*first, *third}
    layers = {layer.version: layer for layer in await learning.store.genomes.layers(ADA)}
    assert (layers[3].parent_id, layers[2].state) == (layers[1].id, "rolled-back")
    assert {where(learning.path)[name] for name in second} == {"wrong [1, 1, 0]"}, "used once, and set aside"


async def test_invariant_2_what_the_base_answers_already_needs_no_layer(learning: Class) -> None:
    known = [fact for fact in learning.world.facts if fact.relation == learning.world.facts[0].relation][:2]
    for fact in known:
        write(
            learning.path,
            fact.subject.replace(" ", "-"),
            original_context=learning.world.questions(fact)[0],
            original_response="I do not know that.",
            expected_response=fact.answer,
        )
    run = await learning.learn()
    assert run.state is RunState.SATISFIED, run.reason
    assert await speaks(learning.store) == 0 and set(where(learning.path).values()) == {"used"}


async def test_layers_are_taken_over_and_merged(learning: Class) -> None:
    learning.correct(1)
    rust = await learning.learn()
    learning.correct(3, TraitKey("ada", "notes"))
    notes = await learning.learn()
    assert (rust.state, notes.state) == (RunState.PROMOTED, RunState.PROMOTED)
    taken = await learning.make("transfer", trait="rust", **{"from": "ada", "to": "bob"})
    assert taken.state is RunState.PROMOTED, taken.reason
    files = [learning.layers.verify(str(run.layer_path)).files for run in (rust, taken)]
    assert files[0]["adapter_model.safetensors"] == files[1]["adapter_model.safetensors"]

    layers = [{"persona": "ada", "trait": trait} for trait in ("rust", "notes")]
    answered = {}
    for method, rank in (("cat", 16), ("linear", 8), ("ties", 8), ("dare", 8)):
        run = await learning.make("merge", persona="ada", trait=method, layers=layers, method=method)
        assert run.evidence["metrics"]["recipe"]["rank"] == rank, "it was made and asked, whatever the gate thought"
        answered[method] = run.evidence["scores"]["batch"]["candidate"]
        if run.state.live:
            assert "It is learnt from the corrections instead" in str(run.reason)
            await learning.store.runs.cancel(run, "a test has seen enough", 0.0)
    # Two layers that know nothing of each other get in each other's way; side by side, least.
    assert answered["cat"] == max(answered.values()) >= 2, answered
