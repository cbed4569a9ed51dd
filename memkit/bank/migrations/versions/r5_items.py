"""Items of stores: values under keys, each with a memory for search."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "5"
down_revision = "4"


def upgrade() -> None:
    op.create_table(
        "items",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("memory_id", sa.String(16), nullable=False),
        sa.Column("stale", sa.String(16)),
        sa.Column("searched", sa.Boolean, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("updated", sa.BigInteger, nullable=False),
        sa.Column("ttl", sa.Float),
        sa.Column("expires", sa.BigInteger),
        sa.ForeignKeyConstraint(
            ["tenant", "memory_id"], ["memories.tenant", "memories.id"], ondelete="CASCADE"
        ),
    )
