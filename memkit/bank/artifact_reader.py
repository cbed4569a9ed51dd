"""Artifact files as they are opened: every byte is checked, and checked again when the file changes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from memkit.artifact.format import Artifact
from memkit.bank.artifact_store import ArtifactStore
from memkit.errors import ArtifactError

KNOWN = 4096  # files whose bytes are known to be right
Signature = tuple[int, int, int, int]


class ArtifactReader:
    """Opens a store's artifacts. What was read whole once is not read again while its file is the same."""

    def __init__(self, blobs: ArtifactStore) -> None:
        self._blobs = blobs
        self._known: OrderedDict[str, tuple[Signature | None, str]] = OrderedDict()
        self._lock = threading.Lock()

    def artifact(self, tenant: str, artifact_id: str) -> Artifact:
        """The artifact of that id. Raises `ArtifactError` where its file is missing or went bad."""
        try:
            return self._open(self._blobs.local(tenant, artifact_id), artifact_id)
        except ArtifactError:  # perhaps only this machine's copy
            return self._open(self._blobs.fresh(tenant, artifact_id), artifact_id)

    def _open(self, path: Path, artifact_id: str) -> Artifact:
        signature, name = _signature(path), str(path)
        # The id is the digest of the whole file: where it is right, so are the tensors' own.
        try:
            artifact = Artifact.open(path, verify_tensors=False)
        except ArtifactError as error:  # where the bank lies is nobody's business
            raise ArtifactError(str(error).replace(f"{path}: ", "").replace(f" {path}", "")) from error
        with self._lock:
            known = signature is not None and self._known.get(name) == (signature, artifact_id)
        if not known and artifact.id != artifact_id:
            artifact.close()
            raise ArtifactError(f"the file of artifact {artifact_id} was altered, or holds another one")
        artifact.is_known_as(artifact_id)
        with self._lock:
            self._known[name] = signature, artifact_id
            self._known.move_to_end(name)
            while len(self._known) > KNOWN:
                self._known.popitem(last=False)
        return artifact


def _signature(path: Path) -> Signature | None:
    """What changes when a file does; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
