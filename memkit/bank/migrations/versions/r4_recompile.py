"""For nightly recompilation: leases, counts of questions, failed attempts, policies and API keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "4"
down_revision = "3"


def upgrade() -> None:
    for column in (
        sa.Column("asked", sa.Integer, nullable=False, server_default="0"),
        sa.Column("last_asked", sa.BigInteger),
        sa.Column("attempt", sa.String(64)),
    ):
        op.add_column("memories", column)
    op.create_table(
        "leases",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("memory_id", sa.String(16), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant", "memory_id"], ["memories.tenant", "memories.id"], ondelete="CASCADE"
        ),
    )
    op.create_table(
        "policies",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("keep_days", sa.Integer),
        sa.Column("max_memories", sa.BigInteger),
        sa.Column("max_characters", sa.BigInteger),
        sa.Column("max_bytes", sa.BigInteger),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("label", sa.Text, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("revoked", sa.BigInteger),
    )
