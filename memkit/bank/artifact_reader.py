"""Open artifact files. All bytes of a file are verified when it is first opened, and again when it
changes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from memkit.artifact.format import Artifact
from memkit.bank.artifact_store import ArtifactStore
from memkit.errors import ArtifactError

MAX_VERIFIED = 4096  # files that are remembered as verified
Signature = tuple[int, int, int, int]  # inode, bytes, modification and change time in nanoseconds


class ArtifactReader:
    """Opens the artifacts of a store. A file that was verified is not read again until it changes."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._verified: OrderedDict[str, tuple[Signature | None, str]] = OrderedDict()
        self._lock = threading.Lock()

    def artifact(self, tenant: str, artifact_id: str) -> Artifact:
        """The artifact with that id. Raises `ArtifactError` when its file is missing or damaged."""
        try:
            return self._open(self._store.local(tenant, artifact_id), artifact_id)
        except ArtifactError:  # perhaps only this machine's copy is damaged
            return self._open(self._store.fresh(tenant, artifact_id), artifact_id)

    def _open(self, path: Path, artifact_id: str) -> Artifact:
        signature, name = _signature(path), str(path)
        # The id is the digest of the whole file: where it matches, so do the tensors' own.
        try:
            artifact = Artifact.open(path, verify_tensors=False)
        except ArtifactError as error:  # the message may reach a client, which must not learn the path
            raise ArtifactError(str(error).replace(f"{path}: ", "").replace(f" {path}", "")) from error
        with self._lock:
            verified = signature is not None and self._verified.get(name) == (signature, artifact_id)
        if not verified and artifact.id != artifact_id:
            artifact.close()
            raise ArtifactError(f"the file of artifact {artifact_id} was altered, or holds another one")
        artifact.set_verified_id(artifact_id)
        with self._lock:
            self._verified[name] = signature, artifact_id
            self._verified.move_to_end(name)
            while len(self._verified) > MAX_VERIFIED:
                self._verified.popitem(last=False)
        return artifact


def _signature(path: Path) -> Signature | None:
    """A value that changes whenever the file does; None without a file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
