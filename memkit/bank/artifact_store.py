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
    """What an artifact's file is called below its store."""
    return f"{tenant_key(tenant)[:16]}/{artifact_id}{SUFFIX}"


class ArtifactStore(Protocol):
    """Where artifact files lie: `LocalArtifactStore` on this machine,
    `memkit.bank.artifact_store_remote.RemoteArtifactStore` elsewhere."""

    def local(self, tenant: str, artifact_id: str) -> Path:
        """The artifact's file on this machine; it is not there if the store has none."""

    def fresh(self, tenant: str, artifact_id: str) -> Path:
        """As `local`, but for what the store has now, whatever this machine kept of it."""

    def exists(self, tenant: str, artifact_id: str) -> bool:
        """Whether the store has the artifact."""

    def write(self, tenant: str, artifact_id: str, data: bytes) -> None:
        """Store an artifact, whole or not at all."""

    def remove(self, tenant: str, artifact_id: str) -> None:
        """Remove an artifact, if it is there."""

    def discard(self, name: str) -> None:
        """Remove what `strays` named."""

    def strays(self, known: Collection[str], before: float) -> list[str]:
        """Names of files that are not ``known`` and were last written before that Unix time."""

    def writing(self) -> AbstractContextManager[None]:
        """Around a write and the transaction that names the file: until then it looks like a stray."""

    def alone(self, timeout: float) -> AbstractContextManager[bool]:
        """Keeps writers out, if all that are at it end within ``timeout`` seconds; whether they did."""


class LocalArtifactStore:
    """The files below one folder. A file is there whole or not at all, even after a power cut."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._synced = set[str]()  # names of folders that survive a power cut themselves

    def local(self, tenant: str, artifact_id: str) -> Path:
        """Where the tenant's artifact of that id lies, when there is one."""
        return self._folder / name_of(tenant, artifact_id)

    def fresh(self, tenant: str, artifact_id: str) -> Path:
        """The same: nothing is kept beside it."""
        return self.local(tenant, artifact_id)

    def exists(self, tenant: str, artifact_id: str) -> bool:
        """Whether there is one."""
        return self.local(tenant, artifact_id).exists()

    def write(self, tenant: str, artifact_id: str, data: bytes) -> None:
        """Store an artifact, in place of a file of that name that may have gone bad."""
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
        """Around a write and the transaction that names the file: until then it looks like a stray."""
        with self._locked() as lock:
            _flock(lock, shared=True)
            yield

    @contextmanager
    def alone(self, timeout: float) -> Iterator[bool]:
        """Keeps writers out, if all that are at it end within ``timeout`` seconds; whether they did.

        Of writers that were killed the system has dropped the locks.
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
        """Names of files that are not ``known`` and were last written before that Unix time."""
        found = [p for p in self._folder.glob("*/*") if p.suffix == SUFFIX or p.name.startswith(_TEMPORARY)]
        named = {f"{p.parent.name}/{p.name}": p for p in found}
        return sorted(n for n, p in named.items() if n not in known and written_before(p, before))

    def discard(self, name: str) -> None:
        """Remove what `strays` named."""
        (self._folder / name).unlink(missing_ok=True)


def written_before(path: Path, before: float) -> bool:
    """Whether a file is there and was last written before that Unix time."""
    try:
        return path.stat().st_mtime < before
    except FileNotFoundError:  # a writer has just finished with it
        return False


def _flock(descriptor: int, *, shared: bool) -> bool:
    """Take the lock: wait for a shared one, try for the other. Never alone where there are no such locks."""
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
    """Make what was created, renamed or removed in a folder survive a power cut."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
