"""Migrations of the catalog, for Alembic: one revision a file in ``versions``."""
