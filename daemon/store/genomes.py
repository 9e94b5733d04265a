"""Statements over genomes and layers: promotion, rollback and pins, each one transaction."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.domain import Genome, GenomeEvent, Layer, Run, RunState, TraitKey
from daemon.errors import GenomeMoved, RequestRefused
from daemon.store import lineage, rows, targets
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

_EVERYONE = select(G.c.persona_id).order_by(G.c.persona_id)
_NOTHING_MORE: Final[lineage.Taught] = {}


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


@dataclass(frozen=True, slots=True)
class Pinned:
    """What a pin did: the revision that it led to, and the rows that it released, which a rollback had set aside."""

    revision: int
    released: list[str]


class Genomes:
    """Which layer every trait of every persona speaks with, and how that came about."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, persona: str) -> Genome:
        """What a persona speaks with; revision 0 and no traits when nothing was ever promoted."""
        async with self._database.read() as connection:
            return await lineage.genome(connection, persona)

    async def personas(self) -> list[str]:
        """Everyone for whom anything was ever promoted, by name."""
        async with self._database.read() as connection:
            return list((await connection.execute(_EVERYONE)).scalars())

    async def all(self) -> list[Genome]:
        """Every genome there is."""
        async with self._database.read() as connection:
            personas = (await connection.execute(_EVERYONE)).scalars().all()
            return [await lineage.genome(connection, persona) for persona in personas]

    async def layers(self, key: TraitKey) -> list[Layer]:
        """Every layer a trait ever had, the newest first."""
        statement = select(L).where(targets.of_trait(key)).order_by(L.c.version.desc())
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
            _require_unmoved(genome, run.compared)
            if _pinned(genome, run.key):
                raise GenomeMoved(f"{run.key} was pinned meanwhile; it is not trained until it is unpinned.")
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
            _require_unmoved(genome, run.compared)
            return await use(connection, run)

    async def satisfied(self, key: TraitKey, layer: Layer | None) -> set[str]:
        """What is used because the base, or a layer that this one comes from, answered it: no layer was taught it."""
        async with self._database.read() as connection:
            spoke = {None, *(one.id for one in await lineage.lineage(connection, layer))}
            return {row for row, by in (await lineage.satisfied(connection, key)).items() if by in spoke}

    async def rollback(
        self, key: TraitKey, to: int | None, actor: str, now: float, taught: lineage.Taught = _NOTHING_MORE
    ) -> RolledBack:
        """Speak with an earlier version again (0: the base; None: the one before); raises RequestRefused."""
        async with self._database.write() as connection:
            genome = await lineage.genome(connection, key.persona)
            await targets.require_known(connection, genome, key)
            if _pinned(genome, key):
                raise RequestRefused(f"{key} is pinned; unpin it first: persona genome unpin {key.persona} {key.trait}")
            chain = await lineage.lineage(connection, genome.layer(key.trait))
            undone, target = targets.cut(key, chain, await targets.versions_of(connection, key), to)
            await _set_state(connection, undone, "rolled-back")
            if target:
                await _set_state(connection, [target], "active")
            await _express(connection, key, target)
            aside = await lineage.set_aside(connection, key, undone, chain[len(undone) :], taught)
            versions = ", ".join(f"v{layer.version}" for layer in undone)
            event = _event(key, "rolled-back", target, actor, f"undid {versions}", now)
            revision = await _advance(connection, genome, event)
        return RolledBack(undone, target, revision, aside)

    async def pin(self, key: TraitKey, version: int, actor: str, now: float) -> Pinned:
        """Speak with one version, and train no other, until unpinned; raises RequestRefused."""
        async with self._database.write() as connection:
            genome = await lineage.genome(connection, key.persona)
            await targets.require_known(connection, genome, key)
            layer, current = await targets.version_of(connection, key, version), genome.layer(key.trait)
            if _pinned(genome, key) and current and current.id == layer.id:
                return Pinned(genome.revision, [])
            # What it was promoted over is part of it: of a lineage that speaks, nothing stays undone.
            chain = await lineage.lineage(connection, layer)
            silent = [current] if current else []
            await _set_state(connection, [*silent, *(one for one in chain if one.state == "rolled-back")], "retired")
            await _set_state(connection, [layer], "active")
            await _express(connection, key, layer, pinned=True)
            released = await lineage.take_back(connection, chain)
            reason = f"took back {len(released)} corrections that were rolled back" if released else ""
            revision = await _advance(connection, genome, _event(key, "pinned", layer, actor, reason, now))
        return Pinned(revision, released)

    async def unpin(self, key: TraitKey, actor: str, now: float) -> int:
        """Let a trait be trained again; it goes on with the version it was pinned to; raises RequestRefused."""
        async with self._database.write() as connection:
            genome = await lineage.genome(connection, key.persona)
            await targets.require_known(connection, genome, key)
            if not _pinned(genome, key):
                raise RequestRefused(f"{key} is not pinned.")
            layer = genome.layer(key.trait)
            await _express(connection, key, layer)
            return await _advance(connection, genome, _event(key, "unpinned", layer, actor, "", now))


def _pinned(genome: Genome, key: TraitKey) -> bool:
    expression = genome.traits.get(key.trait)
    return expression is not None and expression.pinned


def _require_unmoved(genome: Genome, compared: int | None) -> None:
    if genome.revision != compared:
        raise GenomeMoved(
            f"The genome of {genome.persona} moved from revision {compared}, which the candidate was compared with,"
            f" to {genome.revision}; it is compared again."
        )


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
