"""A trainer that writes real layer directories but does as it is told, and everything that learning needs around it."""

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy
from safetensors.numpy import save_file

from daemon.config.settings import Config
from daemon.domain import Run, RunState, TraitKey
from daemon.genome.directories import LayerDirectories
from daemon.learning.admin import Admin
from daemon.learning.conductor import Conductor
from daemon.learning.planner import Plan, Planner, Wishes
from daemon.store.store import Store
from daemon.training.engine.job import Answer, Event, Finished, Group, Job, Loaded, Probe, Step
from tests.integration.store_support import ADA, a_store, write

RIGHT, WRONG = Answer("right", True, 1.0, 2.0), Answer("wrong", False, 0.0, -2.0)
Meanwhile = Callable[[Job], Awaitable[None]]


@dataclass
class Scripted:
    """A Trainer: stages a layer as PEFT lays it out, and says of it what `outcome` tells."""

    outcome: str = "better"
    """better, worse, satisfied; or an error to fail with."""
    failures: list[Exception | None] = field(default_factory=list)
    """Raised by the next attempts, one each; None where one goes well."""
    unusable: dict[str, str] = field(default_factory=dict)
    """Examples that it says it cannot read."""
    says: dict[str, str] = field(default_factory=dict)
    """What it answers to examples that it does not learn, where that is not "wrong"."""
    breaks: set[str] = field(default_factory=set)
    """Examples that make it change what no correction is about, wherever it learns one."""
    meanwhile: Meanwhile | None = None
    """Happens once, in the middle of the next training."""
    jobs: list[Job] = field(default_factory=list)
    closed: int = 0

    async def train(self, job: Job) -> AsyncGenerator[Event, None]:
        """Yield what a training yields; cancelled, it leaves what it had staged."""
        self.jobs.append(job)
        yield Loaded(job.base_model, 1, "cpu", 0.0)
        _stage(Path(job.out))
        yield Step(1, 2, 1.0, 0.1)
        happens, self.meanwhile = self.meanwhile, None
        try:
            if happens:
                await happens(job)
            if failure := self.failures.pop(0) if self.failures else None:
                raise failure
        finally:
            self.closed += 1
        trained = self.outcome != "satisfied"
        read = [example for example in job.examples if example.id not in self.unusable]
        unusable = {example.id: self.unusable[example.id] for example in job.examples if example not in read}
        probes = [self._probe(one.id, one.group) for one in read]
        if self.breaks:
            broken = any(one.id in self.breaks for one in read)
            probes.append(Probe("anchor-1", Group.ANCHOR, RIGHT, WRONG if broken else RIGHT))
        yield Finished(trained, probes, {"loss": 0.1}, unusable)

    async def close(self) -> None:
        """Nothing is held."""

    def _probe(self, name: str, group: Group) -> Probe:
        if self.outcome == "satisfied":
            return Probe(name, group, RIGHT)
        if group is Group.BATCH:
            worse = replace(WRONG, text=self.says.get(name, WRONG.text))
            return Probe(name, group, WRONG, RIGHT if self.outcome == "better" else worse)
        return Probe(name, group, RIGHT, RIGHT)


def _stage(out: Path) -> None:
    out.mkdir()
    save_file({"lora_A": numpy.array([random.random()], numpy.float32)}, out / "adapter_model.safetensors")
    (out / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 16}')


@dataclass
class School:
    """Planner, conductor and admin over one store, as the daemon has them; time stands still until a test moves it."""

    store: Store
    path: Path
    layers: LayerDirectories
    trainer: Scripted
    config: Config
    now: float = field(default_factory=time.time)
    moment: float = 0.0

    def __post_init__(self) -> None:
        self.planner = Planner(
            self.store, self.layers, lambda: self.config, clock=self.clock, monotonic=lambda: self.moment
        )
        self.conductor = Conductor(self.store, self.layers, self.trainer, lambda: self.config, clock=self.clock)
        self.admin = Admin(self.store, self.layers, self.planner, clock=self.clock)

    @property
    def weights(self) -> Path:
        """What the base model consists of, in name."""
        return Path(self.config.defaults.base_model, "model.safetensors")

    def clock(self) -> float:
        return self.now

    def configure(self, text: str = "", **environment: str) -> None:
        """Read another config over the same base."""
        self.config = configured(self.path.parent, self.config.defaults.base_model, text, **environment)

    async def plan(self, **wishes: Any) -> Plan:
        """One look of a planner that waits for no burst."""
        return await self.planner.plan(Wishes(**{"hurried": True, **wishes}))

    async def conduct(self) -> Run:
        """Carry the one live run as far as it goes, a second try after a rejection included; what became of it."""
        run = await self.attempt()
        again = run.state is RunState.PLANNED and run.evidence.get("decision") == "reject"
        return await self.attempt() if again else run

    async def attempt(self) -> Run:
        """One attempt of the one live run."""
        (run,) = await self.store.runs.live()
        await self.conductor.conduct(run)
        return await self.run(run.id)

    async def learn(self) -> Run:
        """Plan what is due, which is one run, and conduct it."""
        assert len((await self.plan()).runs) == 1
        return await self.conduct()

    async def learn_two_layers(self) -> None:
        """What many tests begin with: two corrections in each."""
        for names in (("one", "two"), ("three", "four")):
            write(self.path, *names)
            await self.learn()

    async def run(self, run_id: str) -> Run:
        found = await self.store.runs.get(run_id)
        assert found is not None
        return found

    async def ask(self, kind: str, **args: Any) -> tuple[str, dict[str, Any]]:
        """An admin's request, answered: its state and result."""
        request = await self.store.requests.ask(kind, args, "me")
        assert await self.admin.serve()
        answered = await self.store.requests.get(request)
        assert answered and answered.result is not None
        return answered.state, dict(answered.result)

    async def state(self, key: TraitKey = ADA) -> RunState | None:
        last = await self.store.runs.last_ended(key)
        return last.state if last else None

    def staged(self) -> list[Path]:
        """What lies in staging."""
        return list((self.layers.root / ".staging").glob("*"))

    def published(self) -> list[str]:
        """Every layer directory, verified."""
        found = sorted(self.layers.root.glob("[!.]*/*/v*"))
        for directory in found:
            self.layers.verify(str(directory.relative_to(self.layers.root)))
        return [directory.name[:5] for directory in found]


def configured(folder: Path, base: str, text: str = "", **environment: str) -> Config:
    """A config file in which two corrections are enough."""
    path = folder / "config.toml"
    path.write_text(f'[defaults]\nbase_model = "{base}"\n{text}', encoding="utf-8")
    return Config.load(path, {"PERSONA_TRIGGERS__MIN_CORRECTIONS": "2", **environment})


@asynccontextmanager
async def a_school(folder: Path) -> AsyncIterator[School]:
    """Everything over an empty store, and a base model that is one in name."""
    base = folder / "base"
    base.mkdir()
    (base / "config.json").write_text(json.dumps({"model_type": "none"}))
    (base / "model.safetensors").write_bytes(b"weights")
    path = folder / "store" / "persona.db"
    async with a_store(path) as store:
        config = configured(path.parent, str(base))
        yield School(store, path, LayerDirectories(folder / "layers"), Scripted(), config)


async def cancelled(task: "asyncio.Task[Any]") -> None:
    """Cancel a task and wait for its end."""
    task.cancel()
    await asyncio.wait([task])
