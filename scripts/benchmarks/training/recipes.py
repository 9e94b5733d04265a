"""What the engine is told for a workload; of the daemon only the seam is imported, so no torch."""

from collections.abc import Iterable

from daemon.training.engine.job import Example, Group, Recipe
from scripts.benchmarks.training import settings
from scripts.benchmarks.training.workloads import Correction, text


def recipe(objective: str) -> Recipe:
    """The fixed policy with the benchmark's numbers."""
    return Recipe(
        policy="fixed",
        rank=settings.RANK,
        alpha=settings.ALPHA,
        target_modules=settings.TARGETS,
        epochs=settings.EPOCHS,
        learning_rate=settings.LEARNING_RATE,
        batch_size=settings.BATCH,
        seed=settings.SEED,
        objective=objective,
        beta=settings.BETA,
    )


def examples(corrections: Iterable[Correction]) -> list[Example]:
    """Corrections without a history, as a job has them."""
    return [
        Example(
            id=str(number),
            messages=[
                {"role": "system", "content": text(correction.system)},
                {"role": "user", "content": text(correction.question)},
            ],
            expected=text(correction.answer),
            original=text(correction.rejected),
            weight=1.0,
            group=Group.BATCH,
        )
        for number, correction in enumerate(corrections)
    ]
