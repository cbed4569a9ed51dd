"""Choose the catalog and the artifact store of a bank: local ones in a folder, or shared ones at URLs."""

from __future__ import annotations

from pathlib import Path

from memkit.bank.artifact_store import ArtifactStore, LocalArtifactStore
from memkit.bank.catalog import AnyCatalog, Catalog


def catalog_of(folder: Path, database: str | None, timeout: float) -> AnyCatalog:
    """The SQLite catalog in ``folder``, or the PostgreSQL one at the URL ``database``.

    ``timeout`` is how many seconds a writer waits for the others.
    """
    if database is None:
        return Catalog(folder / "catalog.sqlite3", timeout)
    from memkit.bank.postgres import PostgresCatalog

    return PostgresCatalog(database, timeout)


def store_of(folder: Path, artifacts: str | None) -> ArtifactStore:
    """The artifact files in ``folder``, or below the URL ``artifacts`` with a cache in ``folder``."""
    if artifacts is None:
        return LocalArtifactStore(folder / "artifacts")
    from memkit.bank.artifact_store_remote import RemoteArtifactStore

    return RemoteArtifactStore(artifacts, folder / "cache")
