"""Names that are compared byte by byte, what looks the same as one memory, and compilations that wait."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "7"
down_revision = "6"


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("scope", sa.String(8), nullable=False, server_default="tenant"))
