"""What trainings take of memory beside what was predicted: real trainer children on models with random weights."""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import structlog
from rich.console import Console
from rich.table import Table

from daemon.training.engine.job import Finished, Job, Recipe, Step
from daemon.training.local import ChildLimits, LocalTrainer
from scripts.benchmarks.training.models import ready
from scripts.benchmarks.training.recipes import examples, recipe
from scripts.benchmarks.training.workloads import persona, workload

MODELS = Path(__file__).parents[2] / ".cache" / "bench" / "models"
MANY = 1000
STEPS = 8
PROMISED = 0.15
"""How far a prediction may be off."""


@dataclass(frozen=True)
class Case:
    """A batch of corrections under one system prompt, on a model, within so many GiB; 0: all that there are."""

    model: str
    corrections: int
    system: int = 512
    limit: float = 0
    objective: str = "sft"
    policy: str = "fixed"
    rooms: bool = False
    """Whether the corrections are those of eight rooms with histories of their own (workload C)."""

    @property
    def told(self) -> Recipe:
        """One epoch, or as many steps as it takes to have seen, looked and asked everything."""
        return replace(recipe(self.objective), policy=self.policy, epochs=1, max_steps=STEPS)


CASES = [
    Case("34M", 32),
    Case("34M", 32, limit=0.95),
    Case("34M", 32, system=32),
    Case("34M", 4, system=32),
    Case("34M", 32, objective="dpo"),
    Case("34M", 32, policy="until-learned"),
    Case("34M", 64, system=64, rooms=True, policy="until-learned"),
    Case("120M", 32),
    Case("120M", 32, limit=1.45),
    Case("34M", MANY),
]


@dataclass(frozen=True)
class Found:
    """GiB, and the wall time of the whole job in seconds."""

    case: Case
    steps: int
    tokens: int
    recomputed: bool
    predicted: float
    peak: float
    seconds: float

    @property
    def error(self) -> float:
        """How far the prediction was off, as a share of what it took."""
        return self.predicted / self.peak - 1


def main() -> int:
    """Every case in a child of its own; 1 when a prediction is farther off than is promised."""
    parser = argparse.ArgumentParser(prog="scripts/bench memory", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="without the batch of 1,000 corrections")
    parser.add_argument("--json", action="store_true", help="everything that was measured, for programs")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("INFO"))
    cases = [case for case in CASES if case.corrections < MANY or not options.quick]
    found = [asyncio.run(measured(case, Console(stderr=True))) for case in cases]
    if options.json:
        print(json.dumps([asdict(each) | {"error": each.error} for each in found]))
    else:
        Console().print(table(found))
    return int(any(abs(each.error) > PROMISED for each in found))


async def measured(case: Case, console: Console) -> Found:
    """One epoch of a batch, from its first probe to its last."""
    random = Random(f"memory {case}")
    rows = workload("C").traits[0] if case.rooms else persona(random, case.system, case.corrections)
    if case.objective != "sft":
        rows = tuple(replace(row, rejected=row.answer[::-1]) for row in rows)
    trainer = LocalTrainer(ChildLimits())
    began = time.monotonic()
    with TemporaryDirectory() as out, console.status(f"{case.model}, {case.corrections} corrections") as status:
        where = str(Path(out) / "layer")
        job = Job("memory", 1, str(ready(case.model, MODELS)), examples(rows), case.told, where, memory_gb=case.limit)
        try:
            finished = await _finished(trainer, job, lambda step: status.update(_says(case, step)))
        finally:
            await trainer.close()
    memory: dict[str, Any] = finished.metrics["memory"]
    return Found(
        case,
        finished.metrics["steps"],
        memory["tokens_per_pass"],
        memory["recomputed"],
        memory["predicted_gb"],
        memory["peak_gb"],
        round(time.monotonic() - began, 1),
    )


async def _finished(trainer: LocalTrainer, job: Job, heard: Callable[[Step], None]) -> Finished:
    async with aclosing(trainer.train(job)) as events:
        async for event in events:
            if isinstance(event, Step):
                heard(event)
            if isinstance(event, Finished):
                return event
    raise RuntimeError("the trainer ended without saying what became of the job")


def _says(case: Case, step: Step) -> str:
    return f"{case.model}, {case.corrections} corrections: step {step.step} of {step.steps}, {step.memory_gb:.2f} GiB"


def table(found: list[Found]) -> Table:
    """A row for each case; GiB."""
    about = "GiB; batch: corrections; prompt: tokens of the system prompt; ×2: activations are recomputed"
    heads = ("model", "batch", "prompt", "how", "limit", "plan", "peak", "off by", "took")
    made = Table(*heads, caption=about)
    for column in made.columns[1:]:
        column.justify = "right"
    for each in found:
        made.add_row(
            each.case.model,
            f"{each.case.corrections:,}",
            str(each.case.system) + " + rooms" * each.case.rooms,
            each.case.objective if each.case.policy == "fixed" else each.case.policy.replace("-", " "),
            (f"{each.case.limit:.2f}" if each.case.limit else "") + " ×2" * each.recomputed,
            f"{each.predicted:.2f}",
            f"{each.peak:.2f}",
            f"{each.error:+.0%}",
            f"{each.seconds:.0f} s",
        )
    return made


if __name__ == "__main__":
    sys.exit(main())
