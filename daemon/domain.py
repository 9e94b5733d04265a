"""The words of the product as frozen values; no row object and no tensor leaves the room that made it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple


class TraitKey(NamedTuple):
    """One skill or memory of one persona: what corrections are batched by and layers are trained for."""

    persona: str
    trait: str

    def __str__(self) -> str:
        return f"{self.persona}:{self.trait}"


class Kind(StrEnum):
    """What a row says about an answer."""

    CORRECTION = "correction"
    """It was wrong; say the expected response instead."""
    AFFIRMATION = "affirmation"
    """The expected response is right; keep it."""


class Purpose(StrEnum):
    """What a run is for."""

    LEARN = "learn"
    """To learn what is pending."""
    RELEARN = "relearn"
    """To learn what is used already, and what the layer that speaks now does not know: it holds no corrections."""
    TRANSFER = "transfer"
    """To take over another persona's layer, or what that learnt."""
    MERGE = "merge"
    """To make one layer of several, or of what those learnt."""


class RunState(StrEnum):
    """Where a run stands; every change of it is one transaction."""

    PLANNED = "planned"
    """Its corrections are claimed; it waits for the trainer."""
    TRAINING = "training"
    """The trainer has it."""
    EVALUATING = "evaluating"
    """A candidate exists; the gate compares it with the incumbent."""
    PROMOTING = "promoting"
    """The gate passed it; its layer is being published."""
    PROMOTED = "promoted"
    """The genome speaks with its layer; its corrections are used."""
    SATISFIED = "satisfied"
    """The served persona already answers its corrections; they are used, without a new layer."""
    REJECTED = "rejected"
    """The gate refused its candidate; its corrections went back."""
    FAILED = "failed"
    """No attempt of it produced a candidate; its corrections are quarantined."""
    CANCELLED = "cancelled"
    """An admin ended it; its corrections went back."""

    @property
    def live(self) -> bool:
        """Whether a run in this state still holds its corrections."""
        return self in LIVE_STATES


MADE = frozenset({Purpose.TRANSFER, Purpose.MERGE})
"""Purposes of runs whose first candidate is made of layers that there are."""

UNTAUGHT = frozenset({RunState.REJECTED, RunState.FAILED})
"""How a run ends that made no layer of what it was to learn."""

LIVE_STATES = frozenset({RunState.PLANNED, RunState.TRAINING, RunState.EVALUATING, RunState.PROMOTING})


@dataclass(frozen=True, slots=True)
class Correction:
    """One row of training_corrections as it was written; `received` in seconds since the epoch."""

    id: str
    key: TraitKey
    context: str | None
    original: str
    expected: str
    reason: str
    severity: float
    kind: Kind
    source: str
    author: str | None
    received: float
    used: bool = False
    quarantined: str | None = None
    sensitive: bool = True
    """Whether it is, or may be: what nobody has looked at may be."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """What one trait has pending; times in seconds since the epoch, severity summed over corrections."""

    key: TraitKey
    pending: int
    severity: float
    oldest: float
    fresh: int
    """Pending corrections that no ended run has returned."""
    affirmations: int = 0


@dataclass(frozen=True, slots=True)
class Tally:
    """How many rows of one trait are where."""

    key: TraitKey
    pending: int
    claimed: int
    used: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt to turn a batch into a layer."""

    id: str
    key: TraitKey
    state: RunState
    planned_because: str
    """Why it was planned, in words."""
    version: int
    """The layer version reserved for it."""
    attempt: int
    fence: int
    failures: int
    created: float
    settings_hash: str = ""
    """What training and gate were configured to, and the base: a rejected batch is due again when this changes."""
    reason: str | None = None
    not_before: float = 0.0
    compared: int | None = None
    """The genome revision that the gate compared against."""
    layer_path: str | None = None
    finished: float | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    purpose: Purpose = Purpose.LEARN
    task: Mapping[str, Any] = field(default_factory=dict)
    """What its purpose needs to know: the base that it is relearnt for, or the layers that it is made of."""


@dataclass(frozen=True, slots=True)
class Intent:
    """Why a run is planned, under which settings, and what for; as in Run."""

    because: str
    settings_hash: str
    purpose: Purpose = Purpose.LEARN
    task: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Layer:
    """One trained adapter version of one trait; `path` is its directory, relative to the layers directory."""

    id: str
    key: TraitKey
    version: int
    state: str
    path: str
    content_hash: str
    base_fingerprint: str
    parent_id: str | None
    run_id: str | None
    created: float = 0.0


@dataclass(frozen=True, slots=True)
class Expression:
    """Which layer one trait speaks with now, if any, and whether an admin pinned it."""

    layer: Layer | None
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Genome:
    """What a persona speaks with, as a numbered revision."""

    persona: str
    revision: int
    traits: Mapping[str, Expression] = field(default_factory=dict)

    def layer(self, trait: str) -> Layer | None:
        """The layer this trait speaks with; None is the base model."""
        expression = self.traits.get(trait)
        return expression.layer if expression else None


@dataclass(frozen=True, slots=True)
class GenomeEvent:
    """One line of a genome's history."""

    at: float
    persona: str
    trait: str | None
    revision: int
    kind: str
    layer_id: str | None
    version: int | None
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class RuntimeState:
    """How far one runtime is from the genome of one persona."""

    runtime: str
    persona: str
    desired: int
    observed: int | None
    state: str
    error: str | None


@dataclass(frozen=True, slots=True)
class AdminRequest:
    """Something an admin asked the daemon to do."""

    id: str
    kind: str
    args: Mapping[str, Any]
    state: str
    result: Mapping[str, Any] | None
    requested_by: str
    problem: str | None = None
    """Why its args cannot be read, as a sentence."""
