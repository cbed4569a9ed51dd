"""Run by Alembic: the connection, in its transaction, comes from `memkit.bank.schema.migrate`."""

from __future__ import annotations

from alembic import context

from memkit.bank.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
