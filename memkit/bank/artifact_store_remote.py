"""Artifact files in any store that fsspec supports, such as S3, with a local cache."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from memkit.bank.artifact_store import SUFFIX, name_of
from memkit.errors import BankError, ConfigError, MissingExtraError, install_line

CACHE_BYTES = 4 << 30  # of the files that are cached on this machine


class RemoteArtifactStore:
    """Artifact files below one URL of a store that writes objects atomically.

    The catalog is asked before each use of the cache, so a forgotten artifact is never served from it.
    Forgetting removes the cached file on this machine at once; other machines evict theirs in time.
    """

    def __init__(self, url: str, cache: Path) -> None:
        try:
            import fsspec
        except ImportError as error:
            raise MissingExtraError("fsspec", install_line("s3")) from error
        try:
            filesystem, root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            driver = f"the driver for {url.partition(':')[0]}"
            raise MissingExtraError(driver, install_line("s3")) from error
        except ValueError as error:
            raise ConfigError(f"no store is at {url!r:.80}: {error}") from error
        self._fs: Any = filesystem
        self._root, self._url, self._cache = str(root).rstrip("/"), url, cache

    def local(self, tenant: str, artifact_id: str) -> Path:
        """The path of the artifact's file in the cache, fetched if absent; no file if the store has none."""
        path = self._cached(tenant, artifact_id)
        if path.exists():
            return path
        with self._reached():
            try:
                data = self._fs.cat_file(self._key(name_of(tenant, artifact_id)))
            except FileNotFoundError:
                return path
        self._keep(path, data)
        return path

    def fresh(self, tenant: str, artifact_id: str) -> Path:
        """Like `local`, but fetched again: the cached file may be damaged."""
        self._cached(tenant, artifact_id).unlink(missing_ok=True)
        return self.local(tenant, artifact_id)

    def exists(self, tenant: str, artifact_id: str) -> bool:
        """Whether the store has the artifact."""
        with self._reached():
            return bool(self._fs.exists(self._key(name_of(tenant, artifact_id))))

    def write(self, tenant: str, artifact_id: str, data: bytes) -> None:
        """Store an artifact, replacing an object of that name, which may be damaged."""
        with self._reached():
            self._fs.pipe_file(self._key(name_of(tenant, artifact_id)), data)
        self._keep(self._cached(tenant, artifact_id), data)

    def remove(self, tenant: str, artifact_id: str) -> None:
        """Remove an artifact, if it is there."""
        self._cached(tenant, artifact_id).unlink(missing_ok=True)
        self.discard(name_of(tenant, artifact_id))

    def discard(self, name: str) -> None:
        """Remove an object that `strays` named."""
        with self._reached():
            try:
                self._fs.rm_file(self._key(name))
            except FileNotFoundError:
                return

    @contextmanager
    def writing(self) -> Iterator[None]:
        """No lock: machines cannot see each other's writes; see `alone`."""
        yield

    @contextmanager
    def alone(self, timeout: float) -> Iterator[bool]:
        """Always False: other machines may be writing, so `memkit.bank.repair` waits before removing
        strays."""
        yield False

    def strays(self, known: Collection[str], before: float) -> list[str]:
        """Names of objects that are not in ``known`` and were written before the Unix time ``before``."""
        with self._reached():
            self._fs.invalidate_cache()
            objects: dict[str, Any] = self._fs.find(self._root, detail=True)
        old = []
        for key, info in objects.items():
            name = key[len(self._root) + 1 :]
            if name.endswith(SUFFIX) and name not in known and _written(info) < before:
                old.append(name)
        return sorted(old)

    def _key(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _cached(self, tenant: str, artifact_id: str) -> Path:
        return self._cache / name_of(tenant, artifact_id)

    def _keep(self, path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".tmp-{uuid.uuid4().hex}")
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        # Other processes use the same cache: a file may vanish between listing and stat.
        files = [(status, file) for file in self._cache.glob(f"*/*{SUFFIX}") if (status := _stat(file))]
        excess = sum(status.st_size for status, _ in files) - CACHE_BYTES
        for status, file in sorted(files, key=lambda each: each[0].st_mtime):
            if excess <= 0:
                break
            if file != path:
                excess -= status.st_size
                file.unlink(missing_ok=True)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # drivers raise errors of their own libraries
            raise BankError(
                f"the artifact store {self._url} cannot be used ({type(error).__name__}: {error}): check its "
                "address and credentials. What the bank had, it has"
            ) from error


def _stat(file: Path) -> os.stat_result | None:
    """The status of a file; None where it does not exist."""
    try:
        return file.stat()
    except FileNotFoundError:
        return None


def _written(info: dict[str, Any]) -> float:
    """The Unix time at which an object was written; now, where its store does not report it."""
    for name in ("LastModified", "mtime", "created", "last_modified"):
        value = info.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return time.time()
