"""Alembic's entry: runs the migrations on the connection that the store hands over."""

from alembic import context
from sqlmodel import SQLModel

from daemon.store import tables  # noqa: F401 - fills SQLModel.metadata, for alembic's own comparison

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=SQLModel.metadata, transaction_per_migration=False)
with context.begin_transaction():
    context.run_migrations()
