"""Write a bank to one tar file, in the format of `memkit.bank.archive`.

A backup holds nothing that was forgotten before it was finished.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

from memkit.bank.archive import CATALOG, FORMAT, LISTING, tombstones
from memkit.bank.artifact_store import ArtifactStore, name_of, sync_folder
from memkit.bank.catalog import AnyCatalog
from memkit.bank.repair import STAGING
from memkit.config import expanded
from memkit.errors import BankBusyError, ConfigError

MAX_ATTEMPTS = 5


class _ChangedError(Exception):
    """A memory was forgotten while it was being copied."""


def backup(path: Path, catalog: AnyCatalog, store: ArtifactStore, target: Path) -> int:
    """Write the bank at ``path`` to a new file and return its size in bytes.

    Copying starts over when a memory is forgotten meanwhile. Raises `ConfigError` when ``target`` exists or
    its folder does not, and `BankBusyError` when every attempt was overtaken by a forget.
    """
    target = expanded(target)
    if target.exists():
        raise ConfigError(f"{target} exists; give a new file")
    if not target.absolute().parent.is_dir():
        raise ConfigError(f"there is no folder {target.absolute().parent}")
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        for _ in range(MAX_ATTEMPTS):
            with temporary.open("wb") as out, _staging(path) as staging:
                try:
                    _write(path, catalog, store, staging, out)
                except _ChangedError:
                    continue
                out.flush()
                os.fsync(out.fileno())
            os.link(temporary, target)  # unlike a rename, this never replaces a file
            sync_folder(target.absolute().parent)
            return target.stat().st_size
    except FileExistsError as error:
        raise ConfigError(f"{target} exists; give a new file") from error
    finally:
        temporary.unlink(missing_ok=True)
    raise BankBusyError(
        f"memories of {path} were forgotten all the time while it was copied: try again later"
    )


@contextmanager
def _staging(path: Path) -> Iterator[Path]:
    """A folder for the copy of the catalog: as private as the bank, and `repair` removes one left behind."""
    path.mkdir(parents=True, exist_ok=True)  # a shared bank may have no folder on this machine yet
    folder = Path(tempfile.mkdtemp(prefix=STAGING, dir=path))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, catalog: AnyCatalog, store: ArtifactStore, staging: Path, out: IO[bytes]) -> None:
    copy, digests = staging / CATALOG, dict[str, str]()
    catalog.copy_to(copy)
    with closing(sqlite3.connect(copy)) as database:
        artifacts = database.execute("SELECT DISTINCT tenant, id FROM artifacts").fetchall()
        forgotten = tombstones(database)
    calibrations = sorted(path.glob("calibrations/*.json"))
    with tarfile.open(fileobj=out, mode="w") as archive:
        for tenant, artifact_id in artifacts:
            name = f"artifacts/{name_of(tenant, artifact_id)}"
            try:
                digests[name] = _add(archive, name, store.local(tenant, artifact_id))
            except FileNotFoundError as error:
                raise _ChangedError from error
        for file in calibrations:
            digests[f"calibrations/{file.name}"] = _add(archive, f"calibrations/{file.name}", file)
        digests[CATALOG] = _add(archive, CATALOG, copy)
        listing = json.dumps({"format": FORMAT, "files": digests}).encode()
        member = tarfile.TarInfo(LISTING)
        member.size = len(listing)
        archive.addfile(member, io.BytesIO(listing))
    with catalog.read() as connection:
        now = connection.exec_driver_sql("SELECT count(*) FROM tombstones").scalar_one()
    if now != len(forgotten):
        raise _ChangedError


def _add(archive: tarfile.TarFile, name: str, file: Path) -> str:
    """Add a file under ``name``; its SHA-256 in hex."""
    with file.open("rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
        member = tarfile.TarInfo(name)
        member.size = data.tell()
        data.seek(0)
        archive.addfile(member, data)
    return digest
