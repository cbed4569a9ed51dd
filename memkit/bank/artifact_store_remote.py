"""Artifact files in any store that fsspec knows, such as S3, with a cache on this machine."""

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

CACHE_BYTES = 4 << 30  # of files that are kept on this machine


class RemoteArtifactStore:
    """The files below one URL. A store writes an object whole, or not at all.

    The cache holds only what the bank names: each use asks the catalog first, and what is forgotten on
    this machine is removed from it at once; elsewhere when it is pushed out.
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
        """The artifact's file on this machine, fetched if need be; there is none if the store has none."""
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
        """The artifact's file, fetched anew; what was kept on this machine may have gone bad."""
        self._cached(tenant, artifact_id).unlink(missing_ok=True)
        return self.local(tenant, artifact_id)

    def exists(self, tenant: str, artifact_id: str) -> bool:
        """Whether the store has the artifact."""
        with self._reached():
            return bool(self._fs.exists(self._key(name_of(tenant, artifact_id))))

    def write(self, tenant: str, artifact_id: str, data: bytes) -> None:
        """Store an artifact, in place of one of that name that may have gone bad."""
        with self._reached():
            self._fs.pipe_file(self._key(name_of(tenant, artifact_id)), data)
        self._keep(self._cached(tenant, artifact_id), data)

    def remove(self, tenant: str, artifact_id: str) -> None:
        """Remove an artifact, if it is there."""
        self._cached(tenant, artifact_id).unlink(missing_ok=True)
        self.discard(name_of(tenant, artifact_id))

    def discard(self, name: str) -> None:
        """Remove what `strays` named."""
        with self._reached():
            try:
                self._fs.rm_file(self._key(name))
            except FileNotFoundError:
                return

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Nothing tells machines from each other that write; see `alone`."""
        yield

    @contextmanager
    def alone(self, timeout: float) -> Iterator[bool]:
        """Never: other machines may be writing, so that strays are given time."""
        yield False

    def strays(self, known: Collection[str], before: float) -> list[str]:
        """Names of objects that are not ``known`` and were written before that Unix time."""
        with self._reached():
            self._fs.invalidate_cache()
            found: dict[str, Any] = self._fs.find(self._root, detail=True)
        old = []
        for key, info in found.items():
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
        # Other processes use the same cache: a file may go between being seen and being looked at.
        files = [(found, file) for file in self._cache.glob(f"*/*{SUFFIX}") if (found := _stat(file))]
        spare = sum(found.st_size for found, _ in files) - CACHE_BYTES
        for found, file in sorted(files, key=lambda each: each[0].st_mtime):
            if spare <= 0:
                break
            if file != path:
                spare -= found.st_size
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
    """What the system says of a file; None where it is gone."""
    try:
        return file.stat()
    except FileNotFoundError:
        return None


def _written(info: dict[str, Any]) -> float:
    """When an object was written; now, where its store does not tell."""
    for name in ("LastModified", "mtime", "created", "last_modified"):
        value = info.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return time.time()
