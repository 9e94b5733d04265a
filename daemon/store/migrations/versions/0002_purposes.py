"""Runs that learn nothing new: what they are for, and what they are made of."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Say of each run what it is for; those that there are were to learn what was pending."""
    op.execute("""
        ALTER TABLE training_runs ADD COLUMN purpose TEXT NOT NULL DEFAULT 'learn'
        CHECK (purpose IN ('learn', 'relearn', 'transfer', 'merge'))
    """)
    op.execute("ALTER TABLE training_runs ADD COLUMN task TEXT")
