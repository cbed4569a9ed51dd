"""Artifact files on local disk, named by their content: ``artifacts/<tenant hash>/<id>.mka``."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from memkit.bank.types import tenant_key

_TEMPORARY = ".tmp-"
SUFFIX = ".mka"


def name_of(tenant: str, artifact_id: str) -> str:
    """The path of an artifact's file, relative to its store."""
    return f"{tenant_key(tenant)[:16]}/{artifact_id}{SUFFIX}"


class ArtifactStore(Protocol):
    """Storage of artifact files: `LocalArtifactStore` on local disk,
    `memkit.bank.artifact_store_remote.RemoteArtifactStore` at a URL."""

    def local(self, tenant: str, artifact_id: str) -> Path:
        """The path of the artifact's file on this machine; the file does not exist if the store has none."""

    def fresh(self, tenant: str, artifact_id: str) -> Path:
        """Like `local`, but fetched again if this machine keeps a copy."""

    def exists(self, tenant: str, artifact_id: str) -> bool:
        """Whether the store has the artifact."""

    def write(self, tenant: str, artifact_id: str, data: bytes) -> None:
        """Store an artifact atomically."""

    def remove(self, tenant: str, artifact_id: str) -> None:
        """Remove an artifact, if it is there."""

    def discard(self, name: str) -> None:
        """Remove a file that `strays` named."""

    def strays(self, known: Collection[str], before: float) -> list[str]:
        """Names of files that are not in ``known`` and were last written before the Unix time ``before``."""

    def writing(self) -> AbstractContextManager[None]:
        """A shared lock for a write and the transaction that refers to the file: until its commit the file
        looks like a stray."""

    def alone(self, timeout: float) -> AbstractContextManager[bool]:
        """An exclusive lock against `writing`; whether it was acquired within ``timeout`` seconds."""


class LocalArtifactStore:
    """Artifact files below one folder. Writes are atomic and survive a power cut."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._synced = set[str]()  # names of subfolders whose own entry was synced to disk

    def local(self, tenant: str, artifact_id: str) -> Path:
        """The path of the artifact's file, which need not exist."""
        return self._folder / name_of(tenant, artifact_id)

    def fresh(self, tenant: str, artifact_id: str) -> Path:
        """The same as `local`: there is no other copy."""
        return self.local(tenant, artifact_id)

    def exists(self, tenant: str, artifact_id: str) -> bool:
        """Whether the store has the artifact."""
        return self.local(tenant, artifact_id).exists()

    def write(self, tenant: str, artifact_id: str, data: bytes) -> None:
        """Store an artifact, replacing a file of that name, which may be damaged."""
        path = self.local(tenant, artifact_id)
        synced = path.parent.name in self._synced and path.parent.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(_TEMPORARY + uuid.uuid4().hex)
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
        if not synced:
            sync_folder(self._folder)
            sync_folder(self._folder.parent)
            self._synced.add(path.parent.name)

    def remove(self, tenant: str, artifact_id: str) -> None:
        """Remove an artifact's file, if it is there."""
        path = self.local(tenant, artifact_id)
        path.unlink(missing_ok=True)
        if path.parent.exists():
            sync_folder(path.parent)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A shared lock for a write and the transaction that refers to the file."""
        with self._locked() as lock:
            _flock(lock, shared=True)
            yield

    @contextmanager
    def alone(self, timeout: float) -> Iterator[bool]:
        """An exclusive lock against `writing`; whether it was acquired within ``timeout`` seconds.

        The operating system releases the locks of processes that were killed.
        """
        deadline = time.monotonic() + timeout
        with self._locked() as lock:
            while not (alone := _flock(lock, shared=False)) and time.monotonic() < deadline:
                time.sleep(0.02)
            yield alone

    @contextmanager
    def _locked(self) -> Iterator[int]:
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._folder.parent / "writing.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def strays(self, known: Collection[str], before: float) -> list[str]:
        """Names of files that are not in ``known`` and were last written before the Unix time ``before``."""
        files = [p for p in self._folder.glob("*/*") if p.suffix == SUFFIX or p.name.startswith(_TEMPORARY)]
        named = {f"{p.parent.name}/{p.name}": p for p in files}
        return sorted(n for n, p in named.items() if n not in known and written_before(p, before))

    def discard(self, name: str) -> None:
        """Remove a file that `strays` named."""
        (self._folder / name).unlink(missing_ok=True)


def written_before(path: Path, before: float) -> bool:
    """Whether a file exists and was last written before the Unix time ``before``."""
    try:
        return path.stat().st_mtime < before
    except FileNotFoundError:  # its writer has just renamed or removed it
        return False


def _flock(descriptor: int, *, shared: bool) -> bool:
    """Wait for a shared lock, or try for an exclusive one; False where the system has no such locks."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Sync a folder to disk, so that files created, renamed or removed in it survive a power cut."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
