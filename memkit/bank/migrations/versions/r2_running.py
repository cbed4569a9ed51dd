"""Running memories: their entries, and what each artifact was compiled from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    op.add_column("memories", sa.Column("name", sa.Text))
    for column in (
        sa.Column("fingerprint", sa.Text),
        sa.Column("digest", sa.String(64)),
        sa.Column("through", sa.Integer),
        sa.Column("since", sa.BigInteger),
        sa.Column("seconds", sa.Float),
        sa.Column("flops", sa.Float),
    ):
        op.add_column("artifacts", column)
    op.create_table(
        "entries",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("memory_id", sa.String(16), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("said", sa.BigInteger, nullable=False),
        sa.Column("speaker", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("start", sa.Integer, nullable=False),
        sa.Column("end", sa.Integer, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("part", sa.Integer, nullable=False),
        sa.UniqueConstraint("tenant", "memory_id", "said"),
        sa.UniqueConstraint("tenant", "memory_id", "key", "part"),
        sa.ForeignKeyConstraint(
            ["tenant", "memory_id"], ["memories.tenant", "memories.id"], ondelete="CASCADE"
        ),
    )
