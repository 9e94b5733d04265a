"""What serves personas, as the reconciler sees it."""

from typing import Protocol


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

    async def observe(self) -> dict[str, int]:
        """The revision that every new request of each persona is answered with; raises RuntimeUnreachable."""
        ...

    async def close(self) -> None:
        """Let go of every connection."""
        ...
