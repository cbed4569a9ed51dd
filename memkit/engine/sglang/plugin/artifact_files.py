"""A bank's artifacts on the server: memory-mapped files, a bounded number of them open."""

from __future__ import annotations

import threading
import time
import uuid
from collections import OrderedDict
from pathlib import Path
from typing import Any, Protocol

from memkit.artifact.format import Artifact
from memkit.engine.sglang.plugin.config import PluginConfig
from memkit.engine.sglang.plugin.protocol import Claim, tenant_folder
from memkit.errors import ArtifactError, BankError, MissingExtraError

FRESH = 5.0  # seconds until the store is asked again whether a fetched file still exists


class Files(Protocol):
    """The artifact files of a bank."""

    def local(self, name: str) -> Path:
        """The path of a file on this machine.

        Raises `ArtifactError` for a file that does not exist (any more), `BankError` when the store cannot be
        reached.
        """


class LocalFiles:
    """Files below a local folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def local(self, name: str) -> Path:
        path = self._root / name
        if path.is_file():
            return path
        if not self._root.is_dir():
            raise BankError(f"the artifact store {self._root} cannot be reached from this server")
        raise ArtifactError("there is no such artifact (any more) for this tenant")


class RemoteFiles:
    """Files below a URL that fsspec supports, fetched into the folder ``cache``.

    After `FRESH` seconds the store is asked again whether a file still exists.
    """

    def __init__(self, url: str, cache: Path) -> None:
        try:
            import fsspec
        except ImportError as error:
            raise MissingExtraError("fsspec", "pip install fsspec and the driver of your store") from error
        filesystem, root = fsspec.core.url_to_fs(url)
        self._fs: Any = filesystem
        self._root, self._url, self._cache = str(root).rstrip("/"), url, cache
        self._seen: dict[str, float] = {}

    def local(self, name: str) -> Path:
        path, now = self._cache / name, time.monotonic()
        if path.exists() and now - self._seen.get(name, -FRESH) < FRESH:
            return path
        key = f"{self._root}/{name}"
        try:
            if not path.exists():
                self._fetch(key, path)
            elif not self._fs.exists(key):
                raise FileNotFoundError(key)
        except FileNotFoundError:
            path.unlink(missing_ok=True)
            self._seen.pop(name, None)
            raise ArtifactError("there is no such artifact (any more) for this tenant") from None
        except Exception as error:  # drivers raise errors of their own libraries
            raise BankError(
                f"the artifact store {self._url} cannot be reached from this server: {type(error).__name__}"
            ) from error
        self._seen[name] = now
        return path

    def _fetch(self, key: str, path: Path) -> None:
        data = self._fs.cat_file(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".tmp-{uuid.uuid4().hex}")
        temporary.write_bytes(data)
        temporary.replace(path)


def files_of(config: PluginConfig) -> Files:
    """The artifact files of a configuration: local, or at a URL."""
    if "://" in config.artifacts:
        return RemoteFiles(config.artifacts, Path(config.cache))
    return LocalFiles(Path(config.artifacts))


class Artifacts:
    """An LRU cache of opened artifacts, of at most ``capacity`` bytes.

    Each use checks that the file still exists, so that a forgotten artifact is no longer served. Thread-safe.
    """

    def __init__(self, files: Files, capacity: int) -> None:
        self._files, self._capacity = files, capacity
        self._open: OrderedDict[str, Artifact] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """The size of the open artifacts."""
        with self._lock:
            return sum(artifact.nbytes for artifact in self._open.values())

    def get(self, claim: Claim, fingerprint: str, *, verify: bool) -> Artifact:
        """The artifact that a request claims, for the base model with that fingerprint.

        Its manifest is always checked; with ``verify`` the digest of the file, too (computed once). Raises
        `ArtifactError` or `FingerprintError` when it cannot be used, `BankError` when the store cannot be
        reached.
        """
        path = self._files.local(claim.file)
        with self._lock:
            artifact = self._open.pop(claim.file, None)
        if artifact is None:
            artifact = Artifact.open(path, verify_tensors=False)
        _require(artifact, claim, fingerprint)
        if verify and artifact.id != claim.artifact:
            raise ArtifactError(f"the file of artifact {claim.artifact[:12]} holds something else")
        self._keep(claim.file, artifact)
        return artifact

    def _keep(self, name: str, artifact: Artifact) -> None:
        with self._lock:
            self._open[name] = artifact
            excess = sum(each.nbytes for each in self._open.values()) - self._capacity
            for other in list(self._open)[:-1]:
                if excess <= 0:
                    break
                excess -= self._open.pop(other).nbytes  # not closed: another thread may be reading it


def _require(artifact: Artifact, claim: Claim, fingerprint: str) -> None:
    manifest = artifact.manifest
    artifact.require(fingerprint)
    if manifest.kind != claim.kind:
        raise ArtifactError(
            f"artifact {claim.artifact[:12]} is of the kind {manifest.kind}, not {claim.kind}"
        )
    if tenant_folder(manifest.tenant) != claim.tenant:
        raise ArtifactError(f"artifact {claim.artifact[:12]} is another tenant's")
    if manifest.metrics.get("decoder") and (claim.kind, manifest.metrics.get("answers")) != ("kv", "base"):
        raise ArtifactError("the artifact is read by a trained decoder, which SGLang does not run")
