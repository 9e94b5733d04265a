"""What a genome is made of, where its layers come from, and what goes with them, inside somebody's transaction."""

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.domain import Expression, Genome, Layer, RunState, TraitKey
from daemon.store import rows
from daemon.store.corrections import quarantine, release, release_all
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

Taught = Mapping[str, Collection[str]]
"""By a layer's id, every correction that its data was made of: batch, rehearsal, and what those superseded."""
_UNDONE = "rolled back with v"
"""How the reason begins for which a rollback quarantines rows."""
NOT_AGAIN = "not learnt again: "
"""How it begins for what was released after that, and refused when it was to be learnt again."""


def undone_with(version: int) -> str:
    """The reason for which rows are quarantined when a rollback undoes one version."""
    return f"{_UNDONE}{version}"


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


async def satisfied(connection: AsyncConnection, key: TraitKey) -> dict[str, str | None]:
    """What was recorded as answered already, by which layer that spoke then; None is the base."""
    # Each event of a trait names what speaks from its revision on.
    spoke = (
        select(E.c.layer_id)
        .where(E.c.persona_id == key.persona, E.c.trait_type == key.trait, E.c.revision <= R.c.compared_revision)
        .order_by(E.c.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    statement = (
        select(RC.c.correction_id, spoke.label("layer_id"))
        .join(R, R.c.id == RC.c.run_id)
        .where(
            R.c.persona_id == key.persona,
            R.c.trait_type == key.trait,
            R.c.state == RunState.SATISFIED,
            RC.c.outcome == "used",
        )
    )
    return {row.correction_id: row.layer_id for row in await connection.execute(statement)}


async def satisfied_by(connection: AsyncConnection, key: TraitKey, layer: Layer | None) -> list[str]:
    """What was recorded as answered already while a layer, or the base, spoke: nobody does once that is undone."""
    by = layer.id if layer else None
    return [row for row, spoke in (await satisfied(connection, key)).items() if spoke == by]


async def answered_by(connection: AsyncConnection, layer: Layer) -> list[str]:
    """What goes with a layer when it is undone, and comes back with it."""
    return [*await learnt_by(connection, layer), *await satisfied_by(connection, layer.key, layer)]


async def set_aside(
    connection: AsyncConnection, key: TraitKey, undone: Sequence[Layer], kept: Sequence[Layer], taught: Taught
) -> list[str]:
    """Quarantine what the undone layers, the newest first, taught and no kept one did; the ids."""
    stays = {row for layer in kept for row in await _known_to(connection, layer, taught)}
    # Nothing undoes the base.
    stays |= set(await satisfied_by(connection, key, None))
    reasons: dict[str, str] = {}
    for layer in undone:
        known = [row for row in await _known_to(connection, layer, taught) if row not in stays]
        # The oldest that taught it names it: the others rehearsed it.
        reasons |= dict.fromkeys(known, undone_with(layer.version))
    return await quarantine(connection, reasons)


async def _known_to(connection: AsyncConnection, layer: Layer, taught: Taught) -> list[str]:
    return [*await answered_by(connection, layer), *taught.get(layer.id, ())]


async def take_back(connection: AsyncConnection, layers: Sequence[Layer]) -> list[str]:
    """Release what was set aside because these layers were undone, and nothing else; the ids."""
    rows = [row for layer in layers for row in await answered_by(connection, layer)]
    back = [*await release(connection, rows, _UNDONE), *await release(connection, rows, NOT_AGAIN)]
    for layer in layers:
        back += await release_all(connection, layer.key, undone_with(layer.version))
    return back
