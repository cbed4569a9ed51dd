"""Byte-wise comparison of names, the identity of documents, and pending compilations."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from memkit.document import Document
from memkit.errors import DocumentError

revision = "7"
down_revision = "6"

_NAMES = {
    "memories": ("tenant",),
    "chunks": ("tenant",),
    "artifacts": ("tenant",),
    "entries": ("tenant", "key"),
    "leases": ("tenant",),
    "items": ("tenant", "key"),
    "api_keys": ("tenant",),
}
_BEFORE = ":1"  # suffix for the names of embedders whose vocabulary differs from today's


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("scope", sa.String(8), nullable=False, server_default="tenant"))
    op.add_column("entries", sa.Column("zone", sa.Integer, nullable=False, server_default="0"))
    op.add_column("memories", sa.Column("identity", sa.String(64), nullable=False, server_default=""))
    connection = op.get_bind()
    name: sa.types.TypeEngine[str] = sa.Text()
    if connection.dialect.name == "postgresql":
        name = sa.Text(collation="C")
        for table, columns in _NAMES.items():
            for column in columns:
                op.alter_column(table, column, type_=name)
    _identify(connection)
    op.create_index("memories_identity", "memories", ["tenant", "identity"])
    op.create_table(
        "waiting",
        sa.Column("tenant", name, primary_key=True),
        sa.Column("memory_id", sa.String(16), primary_key=True),
        sa.Column("added", sa.BigInteger, nullable=False),
        sa.Column("always", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.ForeignKeyConstraint(
            ["tenant", "memory_id"], ["memories.tenant", "memories.id"], ondelete="CASCADE"
        ),
    )
    for kind in ("lexical", "hybrid"):
        old = sa.text("UPDATE embedders SET name = name || :end WHERE substr(name, 1, :length) = :kind")
        connection.execute(old, {"end": _BEFORE, "length": len(kind), "kind": kind})


def _identify(connection: sa.Connection) -> None:
    """Fill in the identity of each memory; a running memory's is the digest of its name."""
    rows = connection.execute(sa.text("SELECT tenant, id, digest, name FROM memories")).all()
    for tenant, memory_id, digest, name in rows:
        this = {"tenant": tenant, "id": memory_id}
        identity = digest
        if name is None:
            text = connection.execute(
                sa.text("SELECT text FROM memories WHERE tenant = :tenant AND id = :id"), this
            ).scalar_one()
            try:
                identity = Document(text).identity
            except DocumentError:  # an earlier memkit accepted it
                identity = digest
        connection.execute(
            sa.text("UPDATE memories SET identity = :identity WHERE tenant = :tenant AND id = :id"),
            {**this, "identity": identity},
        )
