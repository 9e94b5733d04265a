"""Which version of a trait an admin means, and where it can be led back to; a sentence where it cannot."""

from collections.abc import Collection, Sequence

from sqlalchemy import and_, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import ColumnElement

from daemon.domain import Genome, Layer, TraitKey
from daemon.errors import RequestRefused
from daemon.store import rows
from daemon.store.corrections import of
from daemon.store.tables import GenomeLayer, TrainingCorrection, table

C, L = table(TrainingCorrection), table(GenomeLayer)


def of_trait(key: TraitKey) -> ColumnElement[bool]:
    """The condition of a layer of one trait."""
    return and_(L.c.persona_id == key.persona, L.c.trait_type == key.trait)


async def require_known(connection: AsyncConnection, genome: Genome, key: TraitKey) -> None:
    """Raise RequestRefused unless the trait has a layer, or was ever corrected."""
    if key.trait in genome.traits:
        return
    corrected = select(C.c.id).limit(1)
    if (await connection.execute(corrected.where(of(key)))).first():
        return
    if genome.revision or (await connection.execute(corrected.where(C.c.persona_id == key.persona))).first():
        raise RequestRefused(f"{key.persona} has no trait {key.trait!r}; see: persona genome show {key.persona}")
    raise RequestRefused(f"There is no persona {key.persona!r} in the store; see: persona status")


async def version_of(connection: AsyncConnection, key: TraitKey, version: int) -> Layer:
    """One version of a trait; raises RequestRefused."""
    row = (await connection.execute(select(L).where(of_trait(key), L.c.version == version))).first()
    if row is None:
        raise _unheard_of(key, version)
    return rows.layer(row)


async def versions_of(connection: AsyncConnection, key: TraitKey) -> set[int]:
    """Every version that a trait ever had."""
    return set((await connection.execute(select(L.c.version).where(of_trait(key)))).scalars())


def cut(
    key: TraitKey, lineage: Sequence[Layer], versions: Collection[int], to: int | None
) -> tuple[list[Layer], Layer | None]:
    """Split a lineage, the newest first, into what a rollback undoes and what speaks then; raises RequestRefused."""
    chain = [*lineage, None]
    targets = [layer.version if layer else 0 for layer in chain]
    index = 1 if to is None else targets.index(to) if to in targets else -1
    if lineage and index > 0:
        return list(lineage[:index]), chain[index]
    pin = f"persona genome pin {key.persona} {key.trait}"
    if to and to not in versions:
        raise _unheard_of(key, to)
    if to and not lineage:
        raise RequestRefused(f"{key} speaks with the base model; to speak with version {to} again: {pin} {to}")
    if not lineage:
        hint = f" To speak with a version again: {pin} VERSION" if versions else ""
        raise RequestRefused(f"{key} speaks with the base model; there is nothing to roll back.{hint}")
    if index == 0:
        raise RequestRefused(f"{key} speaks with version {to} already.")
    raise RequestRefused(
        f"{key} cannot roll back to version {to}: what speaks now descends from {_in_words(targets[1:-1])};"
        f" to speak with version {to}: {pin} {to}"
    )


def _in_words(versions: Sequence[int]) -> str:
    """Versions, and the base model that the first of them came from."""
    noun = "version" if len(versions) == 1 else "versions"
    return f"{noun} {', '.join(map(str, versions))} and the base model (0)" if versions else "the base model (0)"


def _unheard_of(key: TraitKey, version: int) -> RequestRefused:
    return RequestRefused(f"{key} has no version {version}; see: persona genome show {key.persona}")
