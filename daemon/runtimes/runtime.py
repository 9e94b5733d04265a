"""What serves personas, as the reconciler sees it."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Observation:
    """What a runtime says of one persona: the revision it answers with, and what keeps it from the newest file."""

    revision: int | None
    error: str | None = None


class Runtime(Protocol):
    """One serving engine; each has a revision per persona that it answers with now."""

    @property
    def name(self) -> str:
        """How the config calls it."""
        ...

    @property
    def kind(self) -> str:
        """What runs there: embedded, vllm, …"""
        ...

    async def observe(self) -> dict[str, Observation]:
        """The revision that every new request of each persona is answered with; raises RuntimeUnreachable."""
        ...

    async def close(self) -> None:
        """Let go of every connection."""
        ...
