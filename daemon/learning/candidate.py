"""What a run asks of the trainer, what its candidate is called afterwards, and how it goes when nobody wants it."""

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from daemon import __version__
from daemon.config.settings import Resolved
from daemon.domain import Layer, Purpose, Run, RunState
from daemon.genome.directories import LayerDirectories
from daemon.genome.fingerprint import base_fingerprint
from daemon.genome.manifest import Manifest
from daemon.learning.dataset import Dataset
from daemon.store.store import Store
from daemon.training.engine.job import Example, Finished, Group, Job, Recipe


@dataclass(frozen=True, slots=True)
class Incumbent:
    """A layer that a candidate is compared with, and what its directory says of it."""

    layer: Layer
    manifest: Manifest

    @property
    def relearnt(self) -> int:
        """How many examples there were when its line was last learnt from the base; 0 where it does not say."""
        found = self.manifest.metrics.get("relearnt")
        return found if isinstance(found, int) else 0


def job(
    run: Run, settings: Resolved, examples: Sequence[Example], layers: LayerDirectories, incumbent: Incumbent | None
) -> Job:
    """The job line of one attempt."""
    training = settings.training
    return Job(
        run=run.id,
        attempt=run.attempt,
        base_model=settings.base_model,
        examples=list(examples),
        recipe=Recipe(
            policy=training.policy,
            rank=training.rank,
            alpha=training.alpha,
            target_modules=training.target_modules,
            epochs=training.epochs,
            learning_rate=training.learning_rate,
            batch_size=training.batch_size,
            max_steps=training.max_steps,
            seed=training.seed,
            method=training.method,
            objective=training.objective,
            beta=training.beta,
            anchors=training.anchors,
        ),
        out=str(layers.staging(run.id, run.attempt)),
        incumbent=str(layers.root / incumbent.layer.path) if incumbent else None,
        relearnt=incumbent.relearnt if incumbent else 0,
        threads=training.threads,
        memory_gb=training.max_memory_gb,
        pantry=str(layers.pantry),
        checkpoint_every=training.checkpoint,
    )


def manifest(
    run: Run, job: Job, replaces: Layer | None, fingerprint: str, finished: Finished, data: Dataset
) -> Manifest:
    """What the candidate's directory says of it; the layer it replaces need not be one that the job could load."""
    left_out = {*finished.unusable, *finished.superseded}
    used = [example for example in job.examples if example.id not in left_out]
    examples = json.dumps([asdict(example) for example in used], sort_keys=True)
    # What goes on from a layer has that layer's shape, whatever the config says.
    followed = asdict(job.recipe) | finished.metrics.get("recipe", {})
    return Manifest(
        persona=run.key.persona,
        trait=run.key.trait,
        version=run.version,
        parent=replaces.id if replaces else None,
        base_model=job.base_model,
        base_fingerprint=fingerprint,
        rank=followed["rank"],
        alpha=followed["alpha"],
        target_modules=followed["target_modules"],
        dataset_hash=hashlib.sha256(examples.encode()).hexdigest(),
        learnt=[example.id for example in used if example.group is Group.BATCH],
        rehearsed=[example.id for example in used if example.group in (Group.HISTORY, Group.AFFIRMATION)],
        superseded=[*{**data.superseded, **finished.superseded}],
        # Of the batch it is set aside; of what was learnt before the layer says that it could not be taught.
        unusable=sorted(
            {*data.broken, *(one.id for one in job.examples if one.id in finished.unusable)} - {*data.claimed}
        ),
        sources=[str(each["name"]) for each in run.task.get("layers", ())] if job.blend else [],
        metrics=dict(finished.metrics),
        created_at=datetime.now(UTC),
        program_version=__version__,
    )


def layer(run: Run, manifest: Manifest, content_hash: str) -> Layer:
    """The published candidate as a layer to be promoted; the store gives it its id."""
    assert run.layer_path is not None, "a promoting run has a layer"
    return Layer(
        id="",
        key=run.key,
        version=run.version,
        state="active",
        path=run.layer_path,
        content_hash=content_hash,
        base_fingerprint=manifest.base_fingerprint,
        parent_id=manifest.parent,
        run_id=run.id,
    )


async def retract(store: Store, layers: LayerDirectories, run: Run) -> None:
    """Remove whatever a run has published, unless it was promoted: nobody may ever ask for what no gate let pass."""
    now = await store.runs.get(run.id)
    if now and now.state is not RunState.PROMOTED:
        held = [correction.id for correction in await store.corrections.claimed_by(run.id)]
        if run.purpose is not Purpose.LEARN:
            held += [correction.id for correction in await store.corrections.learnt(run.key)]
        await asyncio.to_thread(layers.retract, *run.key, run.version, held)


def same_base(manifest: Manifest, base_model: str) -> bool:
    """Whether a layer belongs to a base; one of the hub is known by its name until it is loaded."""
    folder = Path(base_model)
    return (
        base_fingerprint(folder) == manifest.base_fingerprint if folder.is_dir() else manifest.base_model == base_model
    )
