"""What the engine is told for a workload; of the daemon only the seam is imported, so no torch."""

from typing import Any

from daemon.training.engine.job import Recipe
from scripts.benchmarks.training import settings


def can(objective: str) -> bool:
    """Whether the engine has this objective."""
    return objective == "sft" or "objective" in Recipe.__dataclass_fields__


def recipe(objective: str) -> Recipe:
    """The fixed policy with the benchmark's numbers."""
    preference: dict[str, Any] = {} if objective == "sft" else {"objective": objective, "beta": settings.BETA}
    return Recipe(
        policy="fixed",
        rank=settings.RANK,
        alpha=settings.ALPHA,
        target_modules=settings.TARGETS,
        epochs=settings.EPOCHS,
        learning_rate=settings.LEARNING_RATE,
        batch_size=settings.BATCH,
        seed=settings.SEED,
        **preference,
    )
