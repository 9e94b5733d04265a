"""What a genome is made of and where its layers come from, read inside somebody's transaction."""

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.domain import Expression, Genome, Layer, RunState
from daemon.store import rows
from daemon.store.tables import (
    GenomeEventRow,
    GenomeLayer,
    GenomeRow,
    GenomeTrait,
    RunCorrection,
    TrainingCorrection,
    TrainingRun,
    table,
)

G, T, L, E = table(GenomeRow), table(GenomeTrait), table(GenomeLayer), table(GenomeEventRow)
C, RC, R = table(TrainingCorrection), table(RunCorrection), table(TrainingRun)


async def genome(connection: AsyncConnection, persona: str) -> Genome:
    """What a persona speaks with, inside somebody's transaction."""
    revision = (await connection.execute(select(G.c.revision).where(G.c.persona_id == persona))).scalar()
    statement = (
        select(T.c.trait_type.label("trait"), T.c.pinned, L)
        .join(L, L.c.id == T.c.layer_id, isouter=True)
        .where(T.c.persona_id == persona)
        .order_by(T.c.trait_type)
    )
    found = (await connection.execute(statement)).all()
    traits = {row.trait: Expression(rows.layer(row) if row.id else None, bool(row.pinned)) for row in found}
    return Genome(persona, revision or 0, traits)


async def lineage(connection: AsyncConnection, layer: Layer | None) -> list[Layer]:
    """A layer and what it was promoted over, the newest first."""
    chain: list[Layer] = []
    while layer:
        chain.append(layer)
        statement = select(L).where(L.c.id == layer.parent_id)
        row = (await connection.execute(statement)).first()
        layer = rows.layer(row) if row else None
    return chain


async def learnt_by(connection: AsyncConnection, layer: Layer) -> list[str]:
    """Ids of the corrections that the run of a layer used."""
    statement = (
        select(C.c.id)
        .join(RunCorrection, RC.c.correction_id == C.c.id)
        .where(RC.c.run_id == layer.run_id, RC.c.outcome == "used")
    )
    return list((await connection.execute(statement)).scalars())


async def satisfied_by(connection: AsyncConnection, layer: Layer) -> list[str]:
    """What was recorded as answered already since a layer was promoted: nothing answers it once that is undone."""
    promoted = select(E.c.revision).where(E.c.layer_id == layer.id, E.c.kind == "promoted").scalar_subquery()
    statement = (
        select(RC.c.correction_id)
        .join(R, R.c.id == RC.c.run_id)
        .where(
            R.c.persona_id == layer.key.persona,
            R.c.trait_type == layer.key.trait,
            R.c.state == RunState.SATISFIED,
            R.c.compared_revision >= promoted,
            RC.c.outcome == "used",
        )
    )
    return list((await connection.execute(statement)).scalars())
