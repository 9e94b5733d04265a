"""Statements over training_corrections: what is pending, what is learnt, what is set aside."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import and_, case, exists, func, not_, or_, select, text, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql import ColumnElement

from daemon.domain import Backlog, Correction, Kind, RunState, Tally, TraitKey
from daemon.store.database import Database
from daemon.store.failures import refusal
from daemon.store.rows import bound, correction, correction_columns, epoch
from daemon.store.tables import RunCorrection, TrainingCorrection, TrainingRun, table

C, RC, R = table(TrainingCorrection), table(RunCorrection), table(TrainingRun)

# Literal values, because SQLite takes the partial index only for a condition that it can read.
_OPEN = text("training_corrections.is_used_in_training = 0 AND training_corrections.quarantined_reason IS NULL")
_USED = text("training_corrections.is_used_in_training = 1")
_ASIDE = C.c.quarantined_reason.is_not(None)
_CLAIMED = exists().where(RC.c.correction_id == C.c.id, RC.c.outcome == "claimed")
_SENT_BACK = exists().where(
    RC.c.correction_id == C.c.id,
    RC.c.outcome == "returned",
    RC.c.run_id == R.c.id,
    R.c.state.in_([RunState.REJECTED, RunState.CANCELLED]),
)
_IS_CORRECTION = C.c.kind == Kind.CORRECTION
_ARRIVAL = (epoch(C.c.received_at), text("training_corrections.rowid"))
"""The order of times, not of their texts: writers have several forms for one."""


def pending(key: TraitKey | None = None) -> ColumnElement[bool]:
    """The condition of a row that waits to be learnt."""
    conditions = and_(_OPEN, not_(_CLAIMED))
    return and_(conditions, of(key)) if key else conditions


def is_learnt() -> ColumnElement[bool]:
    """The condition of a row that is learnt, and stays so."""
    # What a rollback undid is used, and set aside: it counts as set aside.
    return and_(_USED, not_(_ASIDE))


def these(ids: Sequence[str]) -> Any:
    """Some ids, for a statement."""
    # However many they are: SQLite counts the variables of a statement.
    return select(func.json_each(json.dumps(list(ids))).table_valued("value").c.value)


def of(key: TraitKey) -> ColumnElement[bool]:
    """The condition of a row of one trait."""
    return and_(C.c.persona_id == key.persona, C.c.trait_type == key.trait)


def _count(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.sum(case((condition, 1), else_=0))


async def quarantine(connection: AsyncConnection, reasons: Mapping[str, str]) -> list[str]:
    """Set rows aside, each with its reason, inside somebody's transaction; which were not set aside before."""
    done = []
    for correction_id, reason in reasons.items():
        waiting = (C.c.id == bound(correction_id), C.c.quarantined_reason.is_(None))
        if (await connection.execute(update(C).where(*waiting).values(quarantined_reason=reason))).rowcount:
            done.append(correction_id)
    return done


async def release(connection: AsyncConnection, ids: Sequence[str], because: str = "") -> list[str]:
    """Take rows out of quarantine, those whose reason begins so, inside somebody's transaction; which were in it."""
    because_of = C.c.quarantined_reason.startswith(because, autoescape=True)
    return await _release(connection, and_(C.c.id.in_(these(ids)), because_of))


async def release_all(connection: AsyncConnection, key: TraitKey, reason: str) -> list[str]:
    """Take every row of a trait out of quarantine that is there for this reason; which were in it."""
    return await _release(connection, and_(of(key), C.c.quarantined_reason == reason))


async def _release(connection: AsyncConnection, aside: ColumnElement[bool]) -> list[str]:
    found = list((await connection.execute(select(C.c.id).where(aside))).scalars())
    await connection.execute(update(C).where(aside).values(quarantined_reason=None))
    return found


class Corrections:
    """What people said, and what became of it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def backlog(self) -> list[Backlog]:
        """What every trait has pending; costs O(pending), whatever the history."""
        statement = (
            select(
                C.c.persona_id,
                C.c.trait_type,
                func.sum(case((_IS_CORRECTION, 1), else_=0)).label("pending"),
                func.sum(case((_IS_CORRECTION, C.c.severity), else_=0.0)).label("severity"),
                func.min(case((_IS_CORRECTION, epoch(C.c.received_at)))).label("oldest"),
                func.sum(case((and_(_IS_CORRECTION, not_(_SENT_BACK)), 1), else_=0)).label("fresh"),
                func.sum(case((_IS_CORRECTION, 0), else_=1)).label("affirmations"),
            )
            .where(pending())
            .group_by(C.c.persona_id, C.c.trait_type)
            .order_by(C.c.persona_id, C.c.trait_type)
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(statement)).all()
        return [
            Backlog(
                key=TraitKey(row.persona_id, row.trait_type),
                pending=row.pending,
                severity=row.severity,
                oldest=row.oldest or 0.0,
                fresh=row.fresh,
                affirmations=row.affirmations,
            )
            for row in rows
        ]

    async def tally(self) -> list[Tally]:
        """How many rows of each trait are pending, claimed, used and quarantined; reads the whole history."""
        claimed = and_(_OPEN, _CLAIMED)
        parts = {"pending": pending(), "claimed": claimed, "used": is_learnt(), "quarantined": _ASIDE}
        statement = (
            select(
                C.c.persona_id, C.c.trait_type, *(func.sum(case((c, 1), else_=0)).label(n) for n, c in parts.items())
            )
            .group_by(C.c.persona_id, C.c.trait_type)
            .order_by(C.c.persona_id, C.c.trait_type)
        )
        async with self._database.read() as connection:
            rows = (await connection.execute(statement)).all()
        return [
            Tally(TraitKey(row.persona_id, row.trait_type), row.pending, row.claimed, row.used, row.quarantined)
            for row in rows
        ]

    async def claimed_by(self, run_id: str) -> list[Correction]:
        """What a run holds or held, in order of arrival."""
        statement = (
            select(*correction_columns())
            .join(RC, RC.c.correction_id == C.c.id)
            .where(RC.c.run_id == run_id)
            .order_by(*_ARRIVAL)
        )
        return await self._corrections(statement)

    async def learnt(self, key: TraitKey) -> list[Correction]:
        """What a trait learnt and may rehearse, in order of arrival; nothing that was rolled back."""
        statement = select(*correction_columns()).where(of(key), is_learnt()).order_by(*_ARRIVAL)
        return await self._corrections(statement)

    async def find(
        self, persona: str | None = None, trait: str | None = None, state: str | None = None, limit: int = 1000
    ) -> list[Correction]:
        """Rows, the latest first; `state` is pending, claimed, used or quarantined."""
        states: dict[str, ColumnElement[bool]] = {
            "pending": pending(),
            "claimed": and_(_OPEN, _CLAIMED),
            "used": is_learnt(),
            "quarantined": _ASIDE,
        }
        statement = select(*correction_columns()).order_by(text("training_corrections.rowid DESC")).limit(limit)
        if persona:
            statement = statement.where(C.c.persona_id == persona)
        if trait:
            statement = statement.where(C.c.trait_type == trait)
        if state:
            statement = statement.where(states[state])
        return await self._corrections(statement)

    async def get(self, correction_id: str) -> Correction | None:
        """One row, by its id or the unambiguous beginning of it."""
        matches = await self._corrections(
            select(*correction_columns())
            .where(or_(C.c.id == correction_id, C.c.id.startswith(correction_id, autoescape=True)))
            .order_by(C.c.id != correction_id)
            .limit(2)
        )
        exact = [match for match in matches if match.id == correction_id] or matches
        return exact[0] if len(exact) == 1 else None

    async def personas(self) -> set[str]:
        """Every persona that anyone ever corrected."""
        async with self._database.read() as connection:
            rows = await connection.execute(select(C.c.persona_id).distinct())
        return {row.persona_id for row in rows}

    async def insert(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Write rows as any other writer would; all of them, or none."""
        async with self._database.write() as connection:
            for row in rows:
                await connection.execute(insert(C).values(**row))

    async def insert_each(self, rows: Sequence[Mapping[str, object]]) -> dict[int, str]:
        """Write the rows that the store lets in; for the others, by position, why not."""
        refused: dict[int, str] = {}
        async with self._database.write() as connection:
            for position, row in enumerate(rows):
                try:
                    await connection.execute(insert(C).values(**row))
                except IntegrityError as error:
                    # SQLite takes back this statement alone; the transaction goes on.
                    refused[position] = refusal(error)
                except OverflowError:
                    refused[position] = "a number is too large."
        return refused

    async def whole(self, persona: str | None = None, trait: str | None = None) -> list[dict[str, object]]:
        """Rows with every column as it is stored, in order of arrival."""
        statement = select(C).order_by(text("training_corrections.rowid"))
        if persona:
            statement = statement.where(C.c.persona_id == persona)
        if trait:
            statement = statement.where(C.c.trait_type == trait)
        async with self._database.read() as connection:
            return [dict(row) for row in (await connection.execute(statement)).mappings()]

    async def by_ids(self, ids: Sequence[str]) -> dict[str, dict[str, object]]:
        """Rows with every column as it is stored, by id; those that there are."""
        statement = select(C).where(C.c.id.in_(these(ids)))
        async with self._database.read() as connection:
            return {row["id"]: dict(row) for row in (await connection.execute(statement)).mappings()}

    async def set_aside(self, ids: Sequence[str], reason: str) -> list[str]:
        """Quarantine those of some rows that wait to be learnt; which."""
        async with self._database.write() as connection:
            found = select(C.c.id).where(C.c.id.in_(these(ids)), pending())
            waiting = (await connection.execute(found)).scalars().all()
            return await quarantine(connection, dict.fromkeys(waiting, reason))

    async def quarantine(self, reasons: Mapping[str, str]) -> None:
        """Set rows aside, each with its reason."""
        async with self._database.write() as connection:
            await quarantine(connection, reasons)

    async def release(self, ids: Sequence[str]) -> int:
        """Take rows out of quarantine; how many were in it."""
        async with self._database.write() as connection:
            return len(await release(connection, ids))

    async def _corrections(self, statement: object) -> list[Correction]:
        async with self._database.read() as connection:
            rows = (await connection.execute(statement)).all()  # type: ignore[call-overload]
        return [correction(row) for row in rows]
