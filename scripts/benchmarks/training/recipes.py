"""What the engine is told for a workload; of the daemon only the seam is imported, so no torch."""

from daemon.training.engine.job import Recipe
from scripts.benchmarks.training import settings


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
