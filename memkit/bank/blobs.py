"""Artifact files on local disk, named by their content: ``artifacts/<tenant hash>/<id>.mka``."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from memkit.bank.records import tenant_key

_TEMPORARY = ".tmp-"


class Blobs:
    """The files below one folder. A file is there whole or not at all, even after a power cut."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, tenant: str, artifact_id: str) -> Path:
        """Where the tenant's artifact of that id lies, when there is one."""
        return self._folder / tenant_key(tenant)[:16] / f"{artifact_id}.mka"

    def write(self, tenant: str, artifact_id: str, data: bytes) -> None:
        """Store an artifact, in place of a file of that name that may have gone bad."""
        path = self.path(tenant, artifact_id)
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
        for folder in (path.parent, self._folder, self._folder.parent):
            sync_folder(folder)

    def remove(self, tenant: str, artifact_id: str) -> None:
        """Remove an artifact's file, if it is there."""
        path = self.path(tenant, artifact_id)
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

    def strays(self, known: Collection[Path], before: float) -> list[Path]:
        """Files that are not ``known`` and were last written before that Unix time."""
        found = [p for p in self._folder.glob("*/*") if p.suffix == ".mka" or p.name.startswith(_TEMPORARY)]
        return sorted(p for p in found if p not in known and written_before(p, before))


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
