"""The tables as SQLModel classes, for statements to be written against; the DDL itself lies in migrations/."""

from typing import cast

from sqlalchemy import Table
from sqlmodel import Field, SQLModel


def table(model: type[SQLModel]) -> Table:
    """The columns behind a model, as statements want them."""
    return cast(Table, model.__table__)  # type: ignore[attr-defined]


class TrainingCorrection(SQLModel, table=True):
    """What people said of an answer; anyone inserts."""

    __tablename__ = "training_corrections"

    id: str = Field(primary_key=True)
    persona_id: str
    trait_type: str
    original_context: str | None
    original_response: str
    expected_response: str
    correction_reason: str
    severity: float
    kind: str
    source: str
    is_sensitive: int | None
    room_id: str | None
    message_id: str | None
    corrected_by: str | None
    corrected_at: str
    received_at: str
    is_used_in_training: int
    quarantined_reason: str | None


class TrainingRun(SQLModel, table=True):
    """One attempt to turn a batch into a layer."""

    __tablename__ = "training_runs"

    id: str = Field(primary_key=True)
    persona_id: str
    trait_type: str
    state: str
    reason: str | None
    attempt: int
    fence: int
    created_at: str
    finished_at: str | None
    planned_because: str
    version: int
    failures: int
    not_before: str | None
    settings_hash: str
    compared_revision: int | None
    layer_path: str | None
    evidence: str | None
    purpose: str
    task: str | None


class RunCorrection(SQLModel, table=True):
    """Which run claimed which correction, and what became of the claim."""

    __tablename__ = "run_corrections"

    run_id: str = Field(primary_key=True, foreign_key="training_runs.id")
    correction_id: str = Field(primary_key=True, foreign_key="training_corrections.id")
    role: str
    outcome: str


class GenomeLayer(SQLModel, table=True):
    """One trained adapter version of one trait; its bytes lie in `path`."""

    __tablename__ = "genome_layers"

    id: str = Field(primary_key=True)
    persona_id: str
    trait_type: str
    version: int
    state: str
    path: str
    content_hash: str
    base_fingerprint: str
    parent_id: str | None
    run_id: str | None
    created_at: str


class GenomeRow(SQLModel, table=True):
    """The revision each persona is at."""

    __tablename__ = "genomes"

    persona_id: str = Field(primary_key=True)
    revision: int


class GenomeTrait(SQLModel, table=True):
    """Which layer each trait speaks with; null is the base model."""

    __tablename__ = "genome_traits"

    persona_id: str = Field(primary_key=True)
    trait_type: str = Field(primary_key=True)
    layer_id: str | None
    pinned: int


class GenomeEventRow(SQLModel, table=True):
    """What happened to a genome, when, by whom and why."""

    __tablename__ = "genome_events"

    id: int | None = Field(default=None, primary_key=True)
    at: str
    persona_id: str
    trait_type: str | None
    revision: int
    kind: str
    layer_id: str | None
    actor: str
    reason: str


class RuntimeRow(SQLModel, table=True):
    """How far each runtime is from each genome."""

    __tablename__ = "runtime_states"

    runtime: str = Field(primary_key=True)
    persona_id: str = Field(primary_key=True)
    desired: int
    observed: int | None
    state: str
    error: str | None


class AdminRequestRow(SQLModel, table=True):
    """What admins ask of the daemon; anyone in the group inserts, the daemon answers."""

    __tablename__ = "admin_requests"

    id: str = Field(primary_key=True)
    kind: str
    args: str
    state: str
    result: str | None
    requested_by: str
    requested_at: str
