"""Statements over training_runs: take, move on, give back; each arrow is one transaction."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import and_, func, literal_column, not_, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from daemon.domain import LIVE_STATES, MADE, UNTAUGHT, Purpose, Run, RunState, TraitKey
from daemon.errors import ClaimLost
from daemon.store import rows
from daemon.store.corrections import quarantine
from daemon.store.database import Database
from daemon.store.lineage import NOT_AGAIN
from daemon.store.tables import RunCorrection, TrainingCorrection, TrainingRun, table

C, RC, R = table(TrainingCorrection), table(RunCorrection), table(TrainingRun)

REJECTIONS_BORNE = 3
"""A row that sat in so many rejected runs is set aside."""


class Runs:
    """Attempts to turn batches into layers, and what they hold."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, run: Run, *, settings_hash: str | None = None) -> Run:
        """Begin the next attempt, with the settings of now, under a new fence; raises ClaimLost when not planned."""
        async with self._database.write() as connection:
            values: dict[str, Any] = {"fence": run.fence + 1, "attempt": run.attempt}
            if settings_hash is not None:
                values["settings_hash"] = settings_hash
            await move(connection, run, RunState.PLANNED, RunState.TRAINING, **values)
            return await get(connection, run.id)

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
            return await get(connection, run.id)

    async def promoting(self, run: Run, layer_path: str, evidence: Mapping[str, Any]) -> Run:
        """The gate passed the candidate, whose complete directory is `layer_path`."""
        async with self._database.write() as connection:
            values = {"layer_path": layer_path, "evidence": rows.dump(evidence)}
            await move(connection, run, RunState.EVALUATING, RunState.PROMOTING, **values)
            return await get(connection, run.id)

    async def rebase(self, run: Run, compared: int) -> Run:
        """The genome moved, though not this trait: what the gate saw still stands at the revision `compared`."""
        async with self._database.write() as connection:
            await move(connection, run, RunState.PROMOTING, RunState.PROMOTING, compared_revision=compared)
            return await get(connection, run.id)

    async def reject(
        self, run: Run, evidence: Mapping[str, Any], reason: str, now: float, lost: Sequence[str] = ()
    ) -> dict[str, list[str]]:
        """The gate refused the candidate: corrections go back, or aside after three times; which are aside, by reason.

        lost: what was used once and was to be learnt again; it goes back to where it was released from.
        """
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
            worn = [*(await connection.execute(rejected)).scalars(), *await _brought(connection, run)]
            aside = {f"rejected: {reason}": worn, f"{NOT_AGAIN}{reason}": list(lost)}
            return {
                why: done
                for why, ids in aside.items()
                if (done := await quarantine(connection, dict.fromkeys(ids, why)))
            }

    async def explain(self, run: Run, evidence: Mapping[str, Any]) -> None:
        """Keep of a rejected run what was found out about it since."""
        ended = and_(R.c.id == run.id, R.c.state == RunState.REJECTED)
        async with self._database.write() as connection:
            await connection.execute(update(R).where(ended).values(evidence=rows.dump(evidence)))

    async def cancel(self, run: Run, reason: str, now: float, *, held_back: bool = True) -> list[str]:
        """End the run; its corrections go back, and count as new ones do unless they are `held_back`.

        What a transfer or a merge brought along is set aside; its ids.
        """
        async with self._database.write() as connection:
            values = {"reason": reason, "finished_at": rows.iso(now), "fence": run.fence + 1}
            if not held_back:
                values["settings_hash"] = ""
            await move(connection, run, run.state, RunState.CANCELLED, **values)
            await _give_back(connection, run)
            return await quarantine(connection, dict.fromkeys(await _brought(connection, run), f"not learnt: {reason}"))

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
            return await get(connection, run.id)

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
            ids = list(dict.fromkeys([*(await connection.execute(held)).scalars(), *await _brought(connection, run)]))
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

    async def last_ended(self, key: TraitKey, purpose: Purpose | None = None) -> Run | None:
        """The last run of a trait that is over, or the last one that was for a purpose."""
        ended = [of(key), not_(R.c.state.in_(LIVE_STATES)), *([R.c.purpose == purpose] if purpose else [])]
        statement = select(R).where(*ended).order_by(text("rowid DESC")).limit(1)
        found = await self._runs(statement)
        return found[0] if found else None

    async def relearnt_in_vain(self) -> set[TraitKey]:
        """Traits whose last run that is over was to learn again what they had learnt, and could not."""
        last = select(func.max(text("rowid"))).select_from(R).where(not_(R.c.state.in_(LIVE_STATES)))
        each = last.group_by(R.c.persona_id, R.c.trait_type)
        vain = and_(R.c.purpose == Purpose.RELEARN, R.c.state.in_(UNTAUGHT), literal_column("rowid").in_(each))
        async with self._database.read() as connection:
            found = await connection.execute(select(R.c.persona_id, R.c.trait_type).where(vain))
            return {TraitKey(row.persona_id, row.trait_type) for row in found}

    async def made(self) -> list[Run]:
        """Runs whose layers were made of others, and promoted."""
        return await self._runs(select(R).where(R.c.purpose.in_(MADE), R.c.state == RunState.PROMOTED))

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
    """Make everything that a run holds used, once; how many rows. The run must have ended well already.

    What is to be learnt anew is used already: only a run that is to learn something new has to hold something.
    """
    claims = (RC.c.run_id == run.id, RC.c.outcome == "claimed")
    ids: Sequence[str] = (await connection.execute(select(RC.c.correction_id).where(*claims))).scalars().all()
    await connection.execute(update(RC).where(*claims).values(outcome="used"))
    marked = await connection.execute(
        update(C)
        .where(C.c.id.in_(select(RC.c.correction_id).where(RC.c.run_id == run.id, RC.c.outcome == "used")))
        .where(C.c.is_used_in_training == 0)
        .values(is_used_in_training=1)
    )
    if not ids and run.purpose is Purpose.LEARN:
        raise ClaimLost(f"Run {run.id} holds no corrections any more; there is nothing that it could have learnt.")
    if marked.rowcount != len(ids):
        raise ClaimLost(f"Run {run.id} holds {len(ids)} corrections, but only {marked.rowcount} of them are unused.")
    return len(ids)


async def _give_back(connection: AsyncConnection, run: Run) -> None:
    await connection.execute(
        update(RC).where(RC.c.run_id == run.id, RC.c.outcome == "claimed").values(outcome="returned")
    )


async def _brought(connection: AsyncConnection, run: Run) -> list[str]:
    """What a run brought along from other traits: what it did not learn is not left for the next one of its trait."""
    if run.purpose not in MADE:
        return []
    return list((await connection.execute(select(RC.c.correction_id).where(RC.c.run_id == run.id))).scalars())


async def get(connection: AsyncConnection, run_id: str) -> Run:
    """One run, inside somebody's transaction."""
    row = (await connection.execute(select(R).where(R.c.id == run_id))).one()
    return rows.run(row)


def of(key: TraitKey) -> Any:
    """The condition of a run of one trait."""
    return and_(R.c.persona_id == key.persona, R.c.trait_type == key.trait)
