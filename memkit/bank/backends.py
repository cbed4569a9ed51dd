"""Where a bank lies: in one folder, or in a database and a store that machines share."""

from __future__ import annotations

from pathlib import Path

from memkit.bank.artifact_store import ArtifactStore, LocalArtifactStore
from memkit.bank.catalog import AnyCatalog, Catalog


def catalog_of(folder: Path, database: str | None, timeout: float) -> AnyCatalog:
    """The catalog in a folder, or in the database of a URL."""
    if database is None:
        return Catalog(folder / "catalog.sqlite3", timeout)
    from memkit.bank.postgres import PostgresCatalog

    return PostgresCatalog(database, timeout)


def store_of(folder: Path, artifacts: str | None) -> ArtifactStore:
    """The artifact files in a folder, or below a URL."""
    if artifacts is None:
        return LocalArtifactStore(folder / "artifacts")
    from memkit.bank.artifact_store_remote import RemoteArtifactStore

    return RemoteArtifactStore(artifacts, folder / "cache")
