"""The tables of memkit before migrations existed; banks from that time have them already."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None


def _of_memory() -> sa.ForeignKeyConstraint:
    columns = ["tenant", "memory_id"]
    return sa.ForeignKeyConstraint(columns, ["memories.tenant", "memories.id"], ondelete="CASCADE")


def upgrade() -> None:
    op.create_table(
        "tenants",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("generation", sa.Integer, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "embedders",
        sa.Column("key", sa.String(64), primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "memories",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("characters", sa.Integer, nullable=False),
        sa.Column("status", sa.String(8), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("tenant", "digest"),
        if_not_exists=True,
    )
    op.create_table(
        "chunks",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("memory_id", sa.String(16), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("start", sa.Integer, nullable=False),
        sa.Column("end", sa.Integer, nullable=False),
        sa.Column("embedding", sa.LargeBinary, nullable=False),
        _of_memory(),
        if_not_exists=True,
    )
    op.create_table(
        "artifacts",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("memory_id", sa.String(16), primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("nbytes", sa.BigInteger, nullable=False),
        sa.Column("compiler", sa.Text, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        _of_memory(),
        if_not_exists=True,
    )
    op.create_table(
        "tombstones",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("tenant_key", sa.String(64), nullable=False),
        sa.Column("memory_hash", sa.String(64), nullable=False),
        sa.Column("forgotten", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )
