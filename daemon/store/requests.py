"""Statements over admin_requests: asked by anyone in the group, answered by the daemon."""

import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Text, cast, select, update
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.sql import ColumnElement

from daemon.domain import AdminRequest
from daemon.store import rows
from daemon.store.database import Database
from daemon.store.tables import AdminRequestRow, table

Q = table(AdminRequestRow)
_ANSWERED = ("done", "refused")
_AS_TEXT = [cast(column, Text).label(column.name) for column in Q.c]
"""Anyone writes here, and SQLite keeps what it is given: bytes where a text belongs, too."""


class Requests:
    """What admins asked for, and what came of it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ask(self, kind: str, args: Mapping[str, Any], by: str) -> str:
        """Write a request down; its id."""
        request_id = uuid.uuid4().hex
        async with self._database.write() as connection:
            # The columns left out have defaults in the DDL, the same for every writer.
            statement = insert(Q).values(id=request_id, kind=kind, args=rows.dump(args), requested_by=by)
            await connection.execute(statement)
        return request_id

    async def asked(self) -> list[AdminRequest]:
        """What waits for an answer, in order."""
        statement = select(*_AS_TEXT).where(Q.c.state == "asked").order_by(Q.c.requested_at)
        async with self._database.read() as connection:
            return [_request(row) for row in (await connection.execute(statement)).all()]

    async def begin(self, request_id: str) -> bool:
        """Take a request up; False when it was withdrawn meanwhile. What is begun is never begun again."""
        async with self._database.write() as connection:
            begun = await connection.execute(
                update(Q).where(_is(request_id), Q.c.state == "asked").values(state="begun")
            )
        return bool(begun.rowcount == 1)

    async def give_up_begun(self) -> int:
        """Answer what a daemon before us began and did not answer: a second time could undo twice; how many."""
        error = "The daemon stopped while it did this; see whether it was done, and ask again if it was not."
        async with self._database.write() as connection:
            given_up = await connection.execute(
                update(Q).where(Q.c.state == "begun").values(state="refused", result=rows.dump({"error": error}))
            )
        return int(given_up.rowcount)

    async def withdraw(self, request_id: str, why: str) -> bool:
        """Take a request back that nobody has begun; whether it still could be."""
        async with self._database.write() as connection:
            withdrawn = await connection.execute(
                update(Q)
                .where(_is(request_id), Q.c.state == "asked")
                .values(state="refused", result=rows.dump({"error": why}))
            )
        return bool(withdrawn.rowcount == 1)

    async def answer(self, request_id: str, state: str, result: Mapping[str, Any]) -> None:
        """Answer a request, once: done or refused."""
        async with self._database.write() as connection:
            await connection.execute(
                update(Q).where(_is(request_id), Q.c.state == "begun").values(state=state, result=rows.dump(result))
            )

    async def get(self, request_id: str) -> AdminRequest | None:
        """One request."""
        statement = select(*_AS_TEXT).where(_is(request_id))
        async with self._database.read() as connection:
            row = (await connection.execute(statement)).first()
        return _request(row) if row else None


def _is(request_id: str) -> ColumnElement[bool]:
    condition: ColumnElement[bool] = cast(Q.c.id, Text) == rows.bound(request_id)
    return condition


def _request(row: Any) -> AdminRequest:
    args, problem = _args(row.args)
    return AdminRequest(
        id=row.id,
        kind=row.kind,
        args=args,
        state=row.state,
        # Until it is answered, a result is whatever its writer put there.
        result=rows.load(row.result) if row.state in _ANSWERED else None,
        requested_by=row.requested_by.encode("utf-8", "replace").decode(),
        problem=problem,
    )


def _args(text: str) -> tuple[dict[str, Any], str | None]:
    # SQLite lets in what Python does not read: lists in lists without end, numbers of thousands of digits.
    try:
        return rows.load(text), None
    except (ValueError, RecursionError):
        return {}, "args is nested too deeply, or holds a number too long; write it flat, with plain values."
