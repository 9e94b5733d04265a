"""Statements over training_runs: plan, take, move on, give back; each arrow is one transaction."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import and_, func, not_, select, text, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.domain import LIVE_STATES, Kind, Run, RunState, TraitKey
from daemon.errors import ClaimLost
from daemon.store import rows
from daemon.store.corrections import pending, quarantine
from daemon.store.database import Database
from daemon.store.tables import RunCorrection, TrainingCorrection, TrainingRun, table

C, RC, R = table(TrainingCorrection), table(RunCorrection), table(TrainingRun)

REJECTIONS_BORNE = 3
"""A row that sat in so many rejected runs is set aside."""
NAMELESS = "id is not valid UTF-8; insert it again without one"


class Runs:
    """Attempts to turn batches into layers, and what they hold."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def plan(self, key: TraitKey, planned_because: str, settings_hash: str, now: float) -> Run | None:
        """Claim everything that a trait has pending for a new run; None when nothing waits, or a run lives."""
        async with self._database.write() as connection:
            statement = select(R.c.id).where(_of(key), R.c.state.in_(LIVE_STATES))
            if (await connection.execute(statement)).first():
                return None
            found = (await connection.execute(select(C.c.id, C.c.kind).where(pending(key)))).all()
            # One that came since `refuse_nameless` waits for the next look.
            waiting = [row for row in found if rows.is_unicode(row.id)]
            if not any(row.kind == Kind.CORRECTION for row in waiting):
                return None
            statement = select(func.coalesce(func.max(R.c.version), 0)).where(_of(key))
            version = (await connection.execute(statement)).scalar_one() + 1
            run_id = uuid.uuid4().hex
            await connection.execute(
                insert(R).values(
                    id=run_id,
                    persona_id=key.persona,
                    trait_type=key.trait,
                    state=RunState.PLANNED,
                    created_at=rows.iso(now),
                    planned_because=planned_because,
                    version=version,
                    settings_hash=settings_hash,
                )
            )
            roles = {Kind.CORRECTION: "train", Kind.AFFIRMATION: "affirm"}
            await connection.execute(
                insert(RC),
                [
                    {"run_id": run_id, "correction_id": row.id, "role": roles[Kind(row.kind)], "outcome": "claimed"}
                    for row in waiting
                ],
            )
            return await _get(connection, run_id)

    async def refuse_nameless(self, key: TraitKey) -> list[str]:
        """Quarantine what of a trait has an id that no run can name, for the reason NAMELESS; their ids, escaped."""
        async with self._database.write() as connection:
            found = (await connection.execute(select(C.c.id).where(pending(key)))).scalars()
            aside = dict.fromkeys((name for name in found if not rows.is_unicode(name)), NAMELESS)
            return [rows.printable(name) for name in await quarantine(connection, aside)]

    async def take(self, run: Run, *, settings_hash: str | None = None) -> Run:
        """Begin the next attempt, with the settings of now, under a new fence; raises ClaimLost when not planned."""
        async with self._database.write() as connection:
            values: dict[str, Any] = {"fence": run.fence + 1, "attempt": run.attempt}
            if settings_hash is not None:
                values["settings_hash"] = settings_hash
            await move(connection, run, RunState.PLANNED, RunState.TRAINING, **values)
            return await _get(connection, run.id)

    async def set_aside(self, run: Run, reasons: Mapping[str, str]) -> None:
        """Quarantine some of what a run holds, each with its reason; the run goes on without them."""
        async with self._database.write() as connection:
            await connection.execute(
                update(RC)
                .where(RC.c.run_id == run.id, RC.c.outcome == "claimed", RC.c.correction_id.in_(list(reasons)))
                .values(outcome="returned")
            )
            await quarantine(connection, reasons)

    async def evaluating(self, run: Run, compared: int) -> Run:
        """A candidate exists and is compared with the genome's revision `compared`."""
        async with self._database.write() as connection:
            await move(connection, run, RunState.TRAINING, RunState.EVALUATING, compared_revision=compared)
            return await _get(connection, run.id)

    async def promoting(self, run: Run, layer_path: str, evidence: Mapping[str, Any]) -> Run:
        """The gate passed the candidate, whose complete directory is `layer_path`."""
        async with self._database.write() as connection:
            values = {"layer_path": layer_path, "evidence": rows.dump(evidence)}
            await move(connection, run, RunState.EVALUATING, RunState.PROMOTING, **values)
            return await _get(connection, run.id)

    async def rebase(self, run: Run, compared: int) -> Run:
        """The genome moved, though not this trait: what the gate saw still stands at the revision `compared`."""
        async with self._database.write() as connection:
            await move(connection, run, RunState.PROMOTING, RunState.PROMOTING, compared_revision=compared)
            return await _get(connection, run.id)

    async def reject(self, run: Run, evidence: Mapping[str, Any], reason: str, now: float) -> list[str]:
        """The gate refused the candidate: corrections go back, or aside after three times; the ids set aside."""
        async with self._database.write() as connection:
            values = {"evidence": rows.dump(evidence), "reason": reason, "finished_at": rows.iso(now)}
            await move(connection, run, run.state, RunState.REJECTED, **values)
            await _give_back(connection, run)
            rejected = (
                select(RC.c.correction_id)
                .join(R, and_(R.c.id == RC.c.run_id, R.c.state == RunState.REJECTED))
                .where(
                    RC.c.correction_id.in_(select(RC.c.correction_id).where(RC.c.run_id == run.id)),
                    RC.c.role == "train",
                )
                .group_by(RC.c.correction_id)
                .having(func.count() >= REJECTIONS_BORNE)
            )
            worn = list((await connection.execute(rejected)).scalars())
            await quarantine(connection, dict.fromkeys(worn, f"rejected: {reason}"))
            return worn

    async def cancel(self, run: Run, reason: str, now: float, *, held_back: bool = True) -> None:
        """End the run; its corrections go back, and count as new ones do unless they are `held_back`."""
        async with self._database.write() as connection:
            values = {"reason": reason, "finished_at": rows.iso(now), "fence": run.fence + 1}
            if not held_back:
                values["settings_hash"] = ""
            await move(connection, run, run.state, RunState.CANCELLED, **values)
            await _give_back(connection, run)

    async def retry(
        self,
        run: Run,
        reason: str,
        not_before: float,
        *,
        failed: bool,
        evidence: Mapping[str, Any] | None = None,
    ) -> Run:
        """Back to planned, for another attempt not before a time; `failed` counts it against the run.

        evidence: what the gate saw of the candidate that this attempt made, where it made one.
        """
        known = {} if evidence is None else {"evidence": rows.dump(evidence)}
        async with self._database.write() as connection:
            await move(
                connection,
                run,
                run.state,
                RunState.PLANNED,
                attempt=run.attempt + 1,
                failures=run.failures + (1 if failed else 0),
                reason=reason,
                not_before=rows.iso(not_before),
                layer_path=None,
                compared_revision=None,
                **known,
            )
            return await _get(connection, run.id)

    async def hurry(self, run: Run) -> None:
        """Let a planned run wait no longer for its next attempt."""
        async with self._database.write() as connection:
            waiting = and_(R.c.id == run.id, R.c.state == RunState.PLANNED, R.c.fence == run.fence)
            await connection.execute(update(R).where(waiting).values(not_before=None))

    async def fail(self, run: Run, reason: str, now: float) -> list[str]:
        """No attempt worked: the run ends, and its corrections are set aside with the reason; their ids."""
        async with self._database.write() as connection:
            await move(connection, run, run.state, RunState.FAILED, reason=reason, finished_at=rows.iso(now))
            await _give_back(connection, run)
            held = select(RC.c.correction_id).where(RC.c.run_id == run.id, RC.c.role == "train")
            ids = list((await connection.execute(held)).scalars())
            await quarantine(connection, dict.fromkeys(ids, f"failed: {reason}"))
            return ids

    async def live(self) -> list[Run]:
        """Every run that holds corrections, the oldest first."""
        statement = select(R).where(R.c.state.in_(LIVE_STATES))
        return await self._runs(statement.order_by(text("rowid")))

    async def latest(self, limit: int = 50, persona: str | None = None, trait: str | None = None) -> list[Run]:
        """Runs, the newest first."""
        statement = select(R).order_by(text("rowid DESC")).limit(limit)
        if persona:
            statement = statement.where(R.c.persona_id == persona)
        if trait:
            statement = statement.where(R.c.trait_type == trait)
        return await self._runs(statement)

    async def last_ended(self, key: TraitKey) -> Run | None:
        """The last run of a trait that is over."""
        statement = select(R).where(_of(key), not_(R.c.state.in_(LIVE_STATES))).order_by(text("rowid DESC")).limit(1)
        found = await self._runs(statement)
        return found[0] if found else None

    async def get(self, run_id: str) -> Run | None:
        """One run, by its id or the unambiguous beginning of it."""
        statement = select(R).where(R.c.id.startswith(run_id, autoescape=True)).limit(2)
        found = await self._runs(statement.order_by(R.c.id != run_id))
        return found[0] if len(found) == 1 or (found and found[0].id == run_id) else None

    async def _runs(self, statement: Any) -> list[Run]:
        async with self._database.read() as connection:
            return [rows.run(row) for row in (await connection.execute(statement)).all()]


async def move(connection: AsyncConnection, run: Run, source: RunState, target: RunState, **values: Any) -> None:
    """Move a run along one arrow, if it is still where and whose it was; raises ClaimLost otherwise."""
    moved = await connection.execute(
        update(R).where(R.c.id == run.id, R.c.state == source, R.c.fence == run.fence).values(state=target, **values)
    )
    if moved.rowcount != 1:
        raise ClaimLost(
            f"Run {run.id} is no longer {source} under fence {run.fence}: it was cancelled, or somebody else"
            f" moved it on; see: persona runs show {run.id[:8]}"
        )


async def use(connection: AsyncConnection, run: Run) -> int:
    """Make everything that a run holds used, once; how many rows. The run must have ended well already."""
    claims = (RC.c.run_id == run.id, RC.c.outcome == "claimed")
    ids: Sequence[str] = (await connection.execute(select(RC.c.correction_id).where(*claims))).scalars().all()
    await connection.execute(update(RC).where(*claims).values(outcome="used"))
    marked = await connection.execute(
        update(C)
        .where(C.c.id.in_(select(RC.c.correction_id).where(RC.c.run_id == run.id, RC.c.outcome == "used")))
        .where(C.c.is_used_in_training == 0)
        .values(is_used_in_training=1)
    )
    if not ids:
        raise ClaimLost(f"Run {run.id} holds no corrections any more; there is nothing that it could have learnt.")
    if marked.rowcount != len(ids):
        raise ClaimLost(f"Run {run.id} holds {len(ids)} corrections, but only {marked.rowcount} of them are unused.")
    return len(ids)


async def _give_back(connection: AsyncConnection, run: Run) -> None:
    await connection.execute(
        update(RC).where(RC.c.run_id == run.id, RC.c.outcome == "claimed").values(outcome="returned")
    )


async def _get(connection: AsyncConnection, run_id: str) -> Run:
    row = (await connection.execute(select(R).where(R.c.id == run_id))).one()
    return rows.run(row)


def _of(key: TraitKey) -> Any:
    return and_(R.c.persona_id == key.persona, R.c.trait_type == key.trait)
