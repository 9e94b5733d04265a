"""Statements that plan runs: what a run claims, what it is for, and what it is made of, in one transaction each."""

import json
import re
import uuid
from collections.abc import Mapping, Sequence

from sqlalchemy import func, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.domain import LIVE_STATES, Intent, Kind, Run, RunState, TraitKey
from daemon.errors import RequestRefused
from daemon.store import rows
from daemon.store.corrections import is_learnt, pending, quarantine, release, these
from daemon.store.corrections import of as of_trait
from daemon.store.database import Database
from daemon.store.failures import refusal
from daemon.store.lineage import NOT_AGAIN
from daemon.store.runs import get, of
from daemon.store.tables import RunCorrection, TrainingCorrection, TrainingRun, table

C, RC, R = table(TrainingCorrection), table(RunCorrection), table(TrainingRun)

NAMELESS = "id is not valid UTF-8; insert it again without one"
TAKEN = "id is one that the gate gives to questions of its own; insert it again without one"
_TAKEN = re.compile(r"(anchor|critical)-\d+|.+~(said)?\d+", re.DOTALL)
_ROLES = {Kind.CORRECTION: "train", Kind.AFFIRMATION: "affirm"}
_COPIES = uuid.UUID("6f0d1c5e-52f1-4b7e-9d3b-7a1f0c9e4d11")
"""The name space of the ids of copied corrections."""


class Plans:
    """Runs to come; a trait has one at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def learn(self, key: TraitKey, because: str, settings_hash: str, now: float) -> Run | None:
        """Claim everything that a trait has pending for a new run; None when nothing waits, or a run lives."""
        async with self._database.write() as connection:
            if await _lives(connection, key):
                return None
            found = (await connection.execute(select(C.c.id, C.c.kind).where(pending(key)))).all()
            # One that came since `refuse_misnamed` waits for the next look.
            waiting = {row.id: Kind(row.kind) for row in found if _misnamed(row.id) is None}
            if Kind.CORRECTION not in waiting.values():
                return None
            run = await _planned(connection, key, Intent(because, settings_hash), now)
            await _claim(connection, run, waiting)
            return run

    async def relearn(self, key: TraitKey, intent: Intent, now: float) -> Run | None:
        """Plan a run that learns again what a trait has learnt; None when that is nothing, or a run lives."""
        async with self._database.write() as connection:
            known = select(C.c.id).where(of_trait(key), is_learnt(), C.c.kind == Kind.CORRECTION).limit(1)
            if await _lives(connection, key) or (await connection.execute(known)).first() is None:
                return None
            return await _planned(connection, key, intent, now)

    async def was_planned(self, key: TraitKey, intent: Intent, since: int) -> bool:
        """Whether there was a run for the same already, after one version."""
        statement = select(R.c.id).where(
            of(key),
            R.c.purpose == intent.purpose,
            R.c.version > since,
            R.c.settings_hash == intent.settings_hash,
            R.c.task == rows.dump(intent.task),
        )
        async with self._database.read() as connection:
            return (await connection.execute(statement.limit(1))).first() is not None

    async def make(
        self, key: TraitKey, intent: Intent, now: float, taught: Sequence[Mapping[str, object]]
    ) -> Run | None:
        """Plan a run whose layer is made of others, with what those were taught; None when a run lives.

        taught: whole rows of other traits, each of which becomes a row of this one, once, however often it comes.
        """
        async with self._database.write() as connection:
            if await _lives(connection, key):
                return None
            copies = [_copy(row, key) for row in taught if of_row(row) != key]
            try:
                for copy in copies:
                    await connection.execute(insert(C).values(**copy).on_conflict_do_nothing())
            except IntegrityError as error:
                raise RequestRefused(f"{key} cannot be taught: {refusal(error)}") from error
            ids = [str(copy["id"]) for copy in copies]
            # What an earlier run like this could not teach is tried again; what anybody undid stays undone.
            for reason in ("rejected: ", "failed: ", "not learnt: ", NOT_AGAIN):
                await release(connection, ids, reason)
            found = await connection.execute(select(C.c.id, C.c.kind).where(pending(key), C.c.id.in_(these(ids))))
            run = await _planned(connection, key, intent, now)
            await _claim(connection, run, {row.id: Kind(row.kind) for row in found})
            return run

    async def refuse_misnamed(self, key: TraitKey) -> dict[str, list[str]]:
        """Quarantine what of a trait has an id that no run can name; by reason, their ids, escaped."""
        async with self._database.write() as connection:
            found = (await connection.execute(select(C.c.id).where(pending(key)))).scalars()
            aside = {name: why for name in found if (why := _misnamed(name))}
            done: dict[str, list[str]] = {}
            for name in await quarantine(connection, aside):
                done.setdefault(aside[name], []).append(rows.printable(name))
            return done


def _misnamed(name: str) -> str | None:
    """Why a run cannot hold a row of this name."""
    if not rows.is_unicode(name):
        return NAMELESS
    return TAKEN if _TAKEN.fullmatch(name) else None


def of_row(row: Mapping[str, object]) -> TraitKey:
    """Whose a whole row is."""
    return TraitKey(str(row["persona_id"]), str(row["trait_type"]))


def _copy(row: Mapping[str, object], key: TraitKey) -> dict[str, object]:
    """A row as another trait's own; its id follows from both, so that there is one copy at most."""
    told = {
        name: rows.printable(value) if isinstance(value, str) else value
        for name, value in row.items()
        if name not in ("is_used_in_training", "quarantined_reason")
    }
    name = json.dumps([row["id"], *key])
    return told | {
        "id": uuid.uuid5(_COPIES, name).hex,
        "persona_id": key.persona,
        "trait_type": key.trait,
        "source": "import",
    }


async def _lives(connection: AsyncConnection, key: TraitKey) -> bool:
    statement = select(R.c.id).where(of(key), R.c.state.in_(LIVE_STATES))
    return (await connection.execute(statement)).first() is not None


async def _planned(connection: AsyncConnection, key: TraitKey, intent: Intent, now: float) -> Run:
    statement = select(func.coalesce(func.max(R.c.version), 0)).where(of(key))
    version = (await connection.execute(statement)).scalar_one() + 1
    run_id = uuid.uuid4().hex
    await connection.execute(
        insert(R).values(
            id=run_id,
            persona_id=key.persona,
            trait_type=key.trait,
            state=RunState.PLANNED,
            created_at=rows.iso(now),
            planned_because=intent.because,
            version=version,
            settings_hash=intent.settings_hash,
            purpose=intent.purpose,
            task=rows.dump(intent.task),
        )
    )
    return await get(connection, run_id)


async def _claim(connection: AsyncConnection, run: Run, kinds: Mapping[str, Kind]) -> None:
    claims = [
        {"run_id": run.id, "correction_id": name, "role": _ROLES[kind], "outcome": "claimed"}
        for name, kind in kinds.items()
    ]
    if claims:
        await connection.execute(insert(RC), claims)
