"""Artifact files on local disk, named by their content: ``artifacts/<tenant hash>/<id>.mka``."""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection
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
            _sync_folder(folder)

    def remove(self, tenant: str, artifact_id: str) -> None:
        """Remove an artifact's file, if it is there."""
        path = self.path(tenant, artifact_id)
        path.unlink(missing_ok=True)
        if path.parent.exists():
            _sync_folder(path.parent)

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


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
