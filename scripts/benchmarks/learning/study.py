"""One recipe on one stream, batch after batch; what is done is kept, and a later start goes on from there."""

import hashlib
import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from daemon.config.sections import Gate
from daemon.domain import Correction, Kind, TraitKey
from daemon.learning import dataset, gate
from daemon.training.engine.anchors import Anchor, anchors_of, make_up
from daemon.training.engine.base import Base
from daemon.training.engine.job import Job, Recipe
from daemon.training.engine.report import Reporter
from daemon.training.engine.worker import Worker
from scripts.benchmarks.learning.measure import Layers, answers, measured
from scripts.benchmarks.learning.rivals import RIVALS, Budget, Given, train
from scripts.benchmarks.learning.stream import Batch, Item, Sizes, Stream

DEFAULT = "default"
ANCHORS = 192
"""Of the rivals that have any."""


@dataclass(frozen=True)
class Course:
    """What one line of a study's table is about."""

    world: str
    recipe: str
    """The product's default policy, or one of RIVALS; "NAME@tokens" has the default's tokens, not its steps."""
    seed: int

    @property
    def name(self) -> str:
        """A file's name."""
        return f"{self.world}-{self.recipe}-{self.seed}"


class Study:
    """Runs courses on one base; `folder` keeps results and layers."""

    def __init__(self, folder: Path, base_folder: Path, stream_of: Callable[[int], Stream]) -> None:
        self._folder, self._base_folder, self._stream_of = folder, base_folder, stream_of
        self._worker = Worker(Reporter(io.StringIO()))
        self._relearnt: dict[str, int] = {}
        """By trait, how many examples there were when its layer was last learnt from the base."""
        self._made_up: dict[str, list[Anchor]] = {}
        """By system prompt, what rivals are held by."""

    @property
    def base(self) -> Base:
        """The base model, loaded once."""
        return self._worker.base(str(self._base_folder))

    def run(self, course: Course) -> Iterator[dict[str, Any]]:
        """The row of every batch, as it is known; those that are not are worked out."""
        file = self._folder / f"{course.name}.jsonl"
        done = rows_of(file)
        yield from done
        stream = self._stream_of(course.seed)
        if len(done) == len(stream.batches):
            return
        outside = sorted({one.asked for questions in stream.outside.values() for one in questions})
        known = dict(zip(outside, (text or "" for text in answers(self.base, stream, None, outside)), strict=True))
        layers: Layers = done[-1]["layers"] if done else {}
        self._relearnt = done[-1]["relearnt"] if done else {}
        for batch in stream.batches[len(done) :]:
            began = time.monotonic()
            out = self._folder / course.name / f"{batch.number:02}"
            shutil.rmtree(out, ignore_errors=True)
            spent = self._learn(course, stream, batch, layers, out)
            if (out / "layer").is_dir():
                layers = {**layers, batch.trait: str(out / "layer")}
            row = {
                "batch": batch.number,
                "trait": batch.trait,
                **asdict(measured(self.base, stream, batch.number, layers, known)),
                "seconds": round(time.monotonic() - began, 1),
                **spent,
                "layers": layers,
                "relearnt": self._relearnt,
            }
            add_row(file, row)
            yield row

    def _learn(self, course: Course, stream: Stream, batch: Batch, layers: Layers, out: Path) -> dict[str, Any]:
        """Write the trait's next layer, if there is to be one; what it took."""
        key = TraitKey(stream.persona, batch.trait)
        claimed = [_correction(key, item, batch.number) for item in batch.items]
        learnt = [
            _correction(key, item, earlier.number)
            for earlier in stream.batches[: batch.number - 1]
            if earlier.trait == batch.trait
            for item in earlier.items
        ]
        examples = dataset.build(claimed, learnt, stream.system_prompt).examples
        if course.recipe == DEFAULT:
            job = Job(
                run=f"{course.name}-{batch.number}",
                attempt=1,
                base_model=str(self._base_folder),
                examples=examples,
                recipe=Recipe(seed=course.seed),
                out=str(out / "candidate"),
                incumbent=layers.get(batch.trait),
                relearnt=self._relearnt.get(batch.trait, 0),
                checkpoint_every=0,
            )
            return self._by_default(job, batch.trait, out)
        name, _, by = course.recipe.partition("@")
        made_up = self._anchors(stream.system_prompt) if RIVALS[name].anchors else []
        given = Given(self.base, examples, made_up, layers.get(batch.trait), out / "layer", course.seed)
        spent = train(RIVALS[name], given, self._budget(course, batch, by))
        return asdict(spent)

    def _by_default(self, job: Job, trait: str, out: Path) -> dict[str, Any]:
        """As the product does it, gate and second try included."""
        finished = self._worker.do(job)
        verdict = gate.judge(finished.probes, Gate(), trained=finished.trained)
        if verdict.decision is gate.Decision.REJECT:
            job = replace(job, recipe=replace(job.recipe, careful=True), out=str(out / "again"))
            finished = self._worker.do(job)
            verdict = gate.judge(finished.probes, Gate(), trained=finished.trained)
        if verdict.decision is gate.Decision.PROMOTE:
            Path(job.out).rename(out / "layer")
            self._relearnt = {**self._relearnt, trait: finished.metrics["relearnt"]}
        metrics = finished.metrics
        kept = {name: metrics.get(name) for name in ("steps", "tokens", "scale", "rewordings", "anchors")}
        kept |= {"careful": job.recipe.careful, "examples": len(job.examples)}
        return {**kept, "stages": metrics["seconds"], "decision": verdict.decision, "reason": verdict.reason}

    def _budget(self, course: Course, batch: Batch, by: str) -> Budget:
        """What the default took for the same batch."""
        file = self._folder / f"{Course(course.world, DEFAULT, course.seed).name}.jsonl"
        row = rows_of(file)[batch.number - 1]
        return Budget(tokens=row["tokens"]) if by == "tokens" else Budget(steps=row["steps"])

    def _anchors(self, system_prompt: str) -> list[Anchor]:
        if system_prompt not in self._made_up:
            told = make_up(self.base, ANCHORS, lambda: None, system_prompt)
            self._made_up[system_prompt] = anchors_of(self.base, told, system_prompt, lambda: None)
        return self._made_up[system_prompt]


def rows_of(file: Path) -> list[dict[str, Any]]:
    """What is known already; nothing where there is no file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def add_row(file: Path, row: dict[str, Any]) -> None:
    """Keep a row for the next start."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        lines.write(json.dumps(row) + "\n")


def identity(base: Path, sizes: Sizes) -> str:
    """Twelve hex digits over what results depend on: base, stream, and everything that learns."""
    root = Path(__file__).parents[3]
    digest = hashlib.sha256(f"{base.name} {sizes}".encode())
    engine, here = (root / "daemon" / "training" / "engine").rglob("*.py"), Path(__file__).parent
    ours = [file for file in here.glob("*.py") if file.stem not in ("__main__", "report", "plots")]
    judging = [root / "daemon" / "learning" / f"{name}.py" for name in ("dataset", "gate", "bounds", "shape")]
    for file in sorted([*engine, *ours, *judging]):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _correction(key: TraitKey, item: Item, number: int) -> Correction:
    """An item as the store would hand it out; a later batch arrived later."""
    return Correction(
        id=item.id,
        key=key,
        context=item.asked,
        original=item.original,
        expected=item.expected,
        reason="",
        severity=0.5,
        kind=Kind.CORRECTION,
        source="study",
        author=None,
        received=float(number),
    )
