"""Statements over runtime_states: how far each runtime is from each genome."""

from sqlalchemy import select
from sqlalchemy.dialects.sqlite import insert

from daemon.domain import RuntimeState
from daemon.store.database import Database
from daemon.store.tables import RuntimeRow, table

S = table(RuntimeRow)


class Runtimes:
    """What runtimes should serve, and what they were last seen serving."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def record(self, state: RuntimeState) -> None:
        """Write down how far a runtime is."""
        says = {
            "desired": state.desired,
            "observed": state.observed,
            "state": state.state,
            "error": state.error,
        }
        statement = insert(S).values(runtime=state.runtime, persona_id=state.persona, **says)
        async with self._database.write() as connection:
            await connection.execute(
                statement.on_conflict_do_update(index_elements=["runtime", "persona_id"], set_=says)
            )

    async def all(self) -> list[RuntimeState]:
        """Every runtime as it was last seen."""
        statement = select(S).order_by(S.c.runtime, S.c.persona_id)
        async with self._database.read() as connection:
            found = (await connection.execute(statement)).all()
        return [
            RuntimeState(row.runtime, row.persona_id, row.desired, row.observed, row.state, row.error) for row in found
        ]
