"""What turns a batch into a candidate layer, whoever does the work."""

from collections.abc import AsyncGenerator
from typing import Protocol

from daemon.training.engine.job import Event, Job


class Trainer(Protocol):
    """Trains one job at a time per base model; local children, providers and clusters all look like this."""

    def train(self, job: Job) -> AsyncGenerator[Event, None]:
        """Yield what happens and end with Finished; raises TrainerFailed; closing the generator cancels the job."""
        ...

    async def close(self) -> None:
        """Let go of every process and connection."""
        ...
