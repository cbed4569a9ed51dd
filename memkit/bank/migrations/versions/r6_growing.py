"""Generations of chunks, so that a search index can grow by chunks added since it was built."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "6"
down_revision = "5"


def upgrade() -> None:
    op.add_column("tenants", sa.Column("cut", sa.Integer, nullable=False, server_default="0"))
    op.add_column("chunks", sa.Column("since", sa.Integer, nullable=False, server_default="0"))
    op.create_index("chunks_since", "chunks", ["tenant", "since"])
