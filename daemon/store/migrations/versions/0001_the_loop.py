"""The store as it begins: corrections, runs, layers, genomes, runtimes, requests."""

import sqlite3
from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table, index and trigger; one statement at a time, so that all of it is one transaction."""
    statement = ""
    for line in Path(__file__).with_name("0001_sqlite.sql").read_text(encoding="utf-8").splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            op.get_bind().exec_driver_sql(statement)
            statement = ""
