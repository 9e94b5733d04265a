"""Statements over genomes and layers: promotion, rollback and pins, each one transaction."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import and_, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.domain import Genome, GenomeEvent, Layer, Run, RunState, TraitKey
from daemon.errors import GenomeMoved, RequestRefused
from daemon.store import lineage, rows
from daemon.store.corrections import quarantine
from daemon.store.database import Database
from daemon.store.runs import move, use
from daemon.store.tables import (
    GenomeEventRow,
    GenomeLayer,
    GenomeRow,
    GenomeTrait,
    table,
)

G, T, L, E = table(GenomeRow), table(GenomeTrait), table(GenomeLayer), table(GenomeEventRow)


@dataclass(frozen=True, slots=True)
class Promoted:
    """What a promotion did."""

    layer: Layer
    revision: int
    corrections: int


@dataclass(frozen=True, slots=True)
class RolledBack:
    """What a rollback did: the layers it undid, the one that speaks now, and the rows it set aside."""

    undone: list[Layer]
    layer: Layer | None
    revision: int
    quarantined: list[str]


class Genomes:
    """Which layer every trait of every persona speaks with, and how that came about."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, persona: str) -> Genome:
        """What a persona speaks with; revision 0 and no traits when nothing was ever promoted."""
        async with self._database.read() as connection:
            return await lineage.genome(connection, persona)

    async def all(self) -> list[Genome]:
        """Every genome there is."""
        async with self._database.read() as connection:
            personas = (await connection.execute(select(G.c.persona_id).order_by(G.c.persona_id))).scalars().all()
            return [await lineage.genome(connection, persona) for persona in personas]

    async def layers(self, key: TraitKey) -> list[Layer]:
        """Every layer a trait ever had, the newest first."""
        statement = select(L).where(_of(key)).order_by(L.c.version.desc())
        async with self._database.read() as connection:
            return [rows.layer(row) for row in (await connection.execute(statement)).all()]

    async def history(self, persona: str, limit: int = 100) -> list[GenomeEvent]:
        """What happened to a genome, the latest first."""
        statement = (
            select(E, L.c.version)
            .join(L, L.c.id == E.c.layer_id, isouter=True)
            .where(E.c.persona_id == persona)
            .order_by(E.c.id.desc())
            .limit(limit)
        )
        async with self._database.read() as connection:
            found = (await connection.execute(statement)).all()
        return [
            GenomeEvent(
                at=rows.seconds(row.at),
                persona=row.persona_id,
                trait=row.trait_type,
                revision=row.revision,
                kind=row.kind,
                layer_id=row.layer_id,
                version=row.version,
                actor=row.actor,
                reason=row.reason,
            )
            for row in found
        ]

    async def promote(self, run: Run, layer: Layer, reason: str, now: float) -> Promoted:
        """Layer, genome revision and used corrections at once; raises ClaimLost or GenomeMoved, and changes nothing."""
        async with self._database.write() as connection:
            await move(connection, run, RunState.PROMOTING, RunState.PROMOTED, reason=reason, finished_at=rows.iso(now))
            genome = await lineage.genome(connection, run.key.persona)
            incumbent = genome.layer(run.key.trait)
            if genome.revision != run.compared or _pinned(genome, run.key):
                raise GenomeMoved(f"The genome of {run.key.persona} moved from revision {run.compared} meanwhile.")
            layer = await _insert_layer(connection, layer, incumbent, now)
            if incumbent:
                await _set_state(connection, [incumbent], "retired")
            await _express(connection, run.key, layer)
            corrections = await use(connection, run)
            event = _event(run.key, "promoted", layer, "daemon", reason, now)
            revision = await _advance(connection, genome, event)
        return Promoted(layer, revision, corrections)

    async def satisfy(self, run: Run, evidence: Mapping[str, Any], reason: str, now: float) -> int:
        """The served persona already answers the batch: its corrections are used, without a new layer; how many."""
        async with self._database.write() as connection:
            values = {"evidence": rows.dump(evidence), "reason": reason, "finished_at": rows.iso(now)}
            await move(connection, run, RunState.EVALUATING, RunState.SATISFIED, **values)
            genome = await lineage.genome(connection, run.key.persona)
            if genome.revision != run.compared:
                raise GenomeMoved(f"The genome of {run.key.persona} moved from revision {run.compared} meanwhile.")
            return await use(connection, run)

    async def rollback(self, key: TraitKey, to: int | None, actor: str, now: float) -> RolledBack:
        """Speak with an earlier version again (0: the base; None: the one before); raises RequestRefused."""
        async with self._database.write() as connection:
            genome = await lineage.genome(connection, key.persona)
            chain = await lineage.lineage(connection, genome.layer(key.trait))
            if _pinned(genome, key):
                raise RequestRefused(f"{key} is pinned; unpin it first: persona genome unpin {key.persona} {key.trait}")
            undone, target = _cut(key, chain, to)
            await _set_state(connection, undone, "rolled-back")
            if target:
                await _set_state(connection, [target], "active")
            await _express(connection, key, target)
            aside: dict[str, str] = {}
            for layer in undone:
                learnt = [*await lineage.learnt_by(connection, layer), *await lineage.satisfied_by(connection, layer)]
                aside = dict.fromkeys(learnt, f"rolled back with v{layer.version}") | aside
            await quarantine(connection, aside)
            versions = ", ".join(f"v{layer.version}" for layer in undone)
            event = _event(key, "rolled-back", target, actor, f"undid {versions}", now)
            revision = await _advance(connection, genome, event)
        return RolledBack(undone, target, revision, list(aside))

    async def pin(self, key: TraitKey, version: int, actor: str, now: float) -> int:
        """Speak with one version, and train no other, until unpinned; the new revision; raises RequestRefused."""
        async with self._database.write() as connection:
            genome = await lineage.genome(connection, key.persona)
            statement = select(L).where(_of(key), L.c.version == version)
            row = (await connection.execute(statement)).first()
            if row is None:
                raise RequestRefused(f"{key} has no version {version}; see: persona genome show {key.persona}")
            layer, current = rows.layer(row), genome.layer(key.trait)
            if current and current.id != layer.id:
                await _set_state(connection, [current], "retired")
            await _set_state(connection, [layer], "active")
            await _express(connection, key, layer, pinned=True)
            return await _advance(connection, genome, _event(key, "pinned", layer, actor, "", now))

    async def unpin(self, key: TraitKey, actor: str, now: float) -> int:
        """Let a trait be trained again; it goes on with the version it was pinned to; raises RequestRefused."""
        async with self._database.write() as connection:
            genome = await lineage.genome(connection, key.persona)
            if not _pinned(genome, key):
                raise RequestRefused(f"{key} is not pinned.")
            layer = genome.layer(key.trait)
            await _express(connection, key, layer)
            return await _advance(connection, genome, _event(key, "unpinned", layer, actor, "", now))


def _of(key: TraitKey) -> Any:
    return and_(L.c.persona_id == key.persona, L.c.trait_type == key.trait)


def _pinned(genome: Genome, key: TraitKey) -> bool:
    expression = genome.traits.get(key.trait)
    return expression is not None and expression.pinned


def _cut(key: TraitKey, chain: Sequence[Layer], to: int | None) -> tuple[list[Layer], Layer | None]:
    """Split a lineage, the newest first, into what a rollback undoes and what speaks then."""
    if not chain:
        raise RequestRefused(f"{key} speaks with the base model; there is nothing to roll back.")
    if to is None:
        return [chain[0]], chain[1] if len(chain) > 1 else None
    if to == 0:
        return list(chain), None
    for index, layer in enumerate(chain):
        if layer.version == to and index > 0:
            return list(chain[:index]), layer
    earlier = ", ".join(str(layer.version) for layer in chain[1:]) or "none"
    raise RequestRefused(f"{key} cannot roll back to version {to}: it comes from {earlier}, or 0 for the base model.")


def _event(key: TraitKey, kind: str, layer: Layer | None, actor: str, reason: str, now: float) -> dict[str, Any]:
    return {
        "at": rows.iso(now),
        "persona_id": key.persona,
        "trait_type": key.trait,
        "kind": kind,
        "layer_id": layer.id if layer else None,
        "actor": actor,
        "reason": reason,
    }


async def _insert_layer(connection: AsyncConnection, layer: Layer, parent: Layer | None, now: float) -> Layer:
    layer = replace(
        layer,
        id=uuid.uuid4().hex,
        state="active",
        parent_id=parent.id if parent else None,
        created=now,
    )
    await connection.execute(
        insert(L).values(
            id=layer.id,
            persona_id=layer.key.persona,
            trait_type=layer.key.trait,
            version=layer.version,
            state=layer.state,
            path=layer.path,
            content_hash=layer.content_hash,
            base_fingerprint=layer.base_fingerprint,
            parent_id=layer.parent_id,
            run_id=layer.run_id,
            created_at=rows.iso(now),
        )
    )
    return layer


async def _set_state(connection: AsyncConnection, layers: Sequence[Layer], state: str) -> None:
    await connection.execute(update(L).where(L.c.id.in_([layer.id for layer in layers])).values(state=state))


async def _express(connection: AsyncConnection, key: TraitKey, layer: Layer | None, *, pinned: bool = False) -> None:
    await connection.execute(insert(G).values(persona_id=key.persona, revision=0).on_conflict_do_nothing())
    says = {"layer_id": layer.id if layer else None, "pinned": int(pinned)}
    statement = insert(T).values(persona_id=key.persona, trait_type=key.trait, **says)
    await connection.execute(statement.on_conflict_do_update(index_elements=["persona_id", "trait_type"], set_=says))


async def _advance(connection: AsyncConnection, genome: Genome, event: Mapping[str, Any]) -> int:
    """Move a genome on by one revision, from the one that was read, and write down why."""
    moved = await connection.execute(
        update(G)
        .where(G.c.persona_id == genome.persona, G.c.revision == genome.revision)
        .values(revision=genome.revision + 1)
    )
    if moved.rowcount != 1:
        raise GenomeMoved(f"The genome of {genome.persona} moved from revision {genome.revision} meanwhile.")
    await connection.execute(insert(E).values(revision=genome.revision + 1, **event))
    return genome.revision + 1
