"""What the gateway asks of an engine, and what the engine says meanwhile."""

from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is drawn; None leaves it to the model's own generation settings."""

    max_tokens: int
    temperature: float | None = None
    """0 takes the likeliest token every time."""
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: a conversation, or a text to continue; `layer` is the path of the one layer that answers."""

    prompt: str | list[dict[str, str]]
    sampling: Sampling
    layer: str | None = None


class Reason(StrEnum):
    """Why an answer ended."""

    STOP = "stop"
    """The model ended its turn, or said a stop sequence."""
    LENGTH = "length"
    """It reached max_tokens, or the end of the model's context."""


@dataclass(frozen=True, slots=True)
class Started:
    """The request is being worked on; its prompt has this many tokens."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Piece:
    """More text of the answer; whole characters only."""

    text: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The answer is complete after this many tokens."""

    reason: Reason
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """There will be no (more) answer; the error is a sentence when it is a PersonaError or a PromptRefused."""

    error: Exception = field(compare=False)


class PromptRefused(Exception):
    """A prompt that this model cannot take: too long, empty, or not of its chat template's form."""


Event = Started | Piece | Ended | Failed
