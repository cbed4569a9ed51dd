"""Pinned versions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "3"
down_revision = "2"


def upgrade() -> None:
    op.add_column("memories", sa.Column("pinned", sa.Boolean, nullable=False, server_default=sa.false()))
