"""Backups: a whole bank in one tar file, and a bank from such a file.

The file holds the catalog, the artifacts, the gate's calibrations and, last, a list of them with their
digests. A backup holds nothing that was forgotten before it was finished.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import sqlite3
import tarfile
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, NoReturn

from memkit.bank.artifact_store import ArtifactStore, name_of, sync_folder
from memkit.bank.catalog import AnyCatalog, Catalog
from memkit.bank.error_mapping import mapped_errors
from memkit.bank.repair import STAGING
from memkit.bank.types import entry_key, memory_hash
from memkit.config import expanded
from memkit.document import Document, Span
from memkit.errors import BankBusyError, BankError, ConfigError

FORMAT = 1
CATALOG, LIST = "catalog.sqlite3", "memkit-backup.json"
MAX_LIST = 1 << 30  # bytes
TRIES = 5
_NAME = re.compile(r"catalog\.sqlite3|artifacts/[0-9a-f]{16}/[0-9a-f]{64}\.mka|calibrations/[\w.-]+\.json")


class _ChangedError(Exception):
    """Something was forgotten while it was being copied."""


def backup(path: Path, catalog: AnyCatalog, blobs: ArtifactStore, target: Path) -> int:
    """Write the bank at ``path`` to a new file; its size in bytes. See `Bank.backup`."""
    target = expanded(target)
    if target.exists():
        raise ConfigError(f"{target} exists; give a new file")
    if not target.absolute().parent.is_dir():
        raise ConfigError(f"there is no folder {target.absolute().parent}")
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        for _ in range(TRIES):
            with temporary.open("wb") as out, _staging(path) as staging:
                try:
                    _write(path, catalog, blobs, staging, out)
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
    """A folder for the copy of the catalog: as safe as the bank itself, and `repair` removes what is left."""
    path.mkdir(parents=True, exist_ok=True)  # of a shared bank nothing may be here yet
    folder = Path(tempfile.mkdtemp(prefix=STAGING, dir=path))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, catalog: AnyCatalog, blobs: ArtifactStore, staging: Path, out: IO[bytes]) -> None:
    copy, listed = staging / CATALOG, dict[str, str]()
    catalog.copy_to(copy)
    with closing(sqlite3.connect(copy)) as database:
        artifacts = database.execute("SELECT DISTINCT tenant, id FROM artifacts").fetchall()
        forgotten = _deletions(database)
    calibrations = sorted(path.glob("calibrations/*.json"))
    with tarfile.open(fileobj=out, mode="w") as archive:
        for tenant, each in artifacts:
            name = f"artifacts/{name_of(tenant, each)}"
            try:
                listed[name] = _add(archive, name, blobs.local(tenant, each))
            except FileNotFoundError as error:
                raise _ChangedError from error
        for file in calibrations:
            listed[f"calibrations/{file.name}"] = _add(archive, f"calibrations/{file.name}", file)
        listed[CATALOG] = _add(archive, CATALOG, copy)
        text = json.dumps({"format": FORMAT, "files": listed}).encode()
        member = tarfile.TarInfo(LIST)
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    with catalog.read() as connection:
        now = connection.exec_driver_sql("SELECT count(*) FROM tombstones").scalar_one()
    if now != len(forgotten):
        raise _ChangedError


def _add(archive: tarfile.TarFile, name: str, file: Path) -> str:
    """The digest of a file that was added."""
    with file.open("rb") as data:
        digest = hashlib.file_digest(data, "sha256").hexdigest()
        member = tarfile.TarInfo(name)
        member.size = data.tell()
        data.seek(0)
        archive.addfile(member, data)
    return digest


def restore(file: str | Path, path: str | Path, *, deletions: str | Path | None = None) -> int:
    """Make a bank at ``path``, which must not hold anything yet, from a backup; how many memories it has.

    Memories that the bank at ``deletions`` has forgotten since are left out, so that an old backup does
    not bring them back. Raises `BankError` for a file that is no sound backup; nothing is made then.
    """
    path = expanded(path).absolute()
    if path.exists() and any(path.iterdir()):
        raise ConfigError(f"{path} is not empty; give a new folder")
    with mapped_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.restore-", dir=path.parent))
        try:
            _extract(expanded(file), staging)
            if deletions is not None:
                _forget_again(staging, expanded(deletions))
            count = _count(staging)
            _sync(staging)
            if path.exists():
                path.rmdir()
            staging.rename(path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return count


def _extract(file: Path, folder: Path) -> None:
    found, listed = dict[str, str](), None
    try:
        with file.open("rb") as data, tarfile.open(fileobj=data, mode="r:") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                if content is None:
                    raise _damaged(file, f"{member.name!r:.80} is no file")
                if member.name == LIST and member.size <= MAX_LIST:
                    listed = json.load(content)
                elif _NAME.fullmatch(member.name) and member.name not in found:
                    found[member.name] = _copy(content, folder / member.name)
                else:
                    raise _damaged(file, f"it holds {member.name!r:.80}")
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {file}") from error
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise _damaged(file, str(error)) from error
    if not isinstance(listed, dict) or listed.get("format") != FORMAT:
        raise _damaged(file, "it is cut off, or made by a newer memkit")
    if listed.get("files") != found or CATALOG not in found:
        raise _damaged(file, "its files do not match their digests")


def _damaged(file: Path, reason: str) -> BankError:
    return BankError(f"{file} is not a sound backup of a bank ({reason}); nothing was restored")


def _copy(content: IO[bytes], target: Path) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with target.open("xb") as out:
        while block := content.read(1 << 20):
            digest.update(block)
            out.write(block)
    return digest.hexdigest()


def _deletions(database: sqlite3.Connection) -> list[tuple[str, int]]:
    return database.execute("SELECT memory_hash, forgotten FROM tombstones").fetchall()


def _forget_again(folder: Path, present: Path) -> None:
    """Forget in the bank at ``folder`` what the one at ``present`` forgot after the backup was made."""
    from memkit.bank.bank import Bank

    if not (present / CATALOG).is_file():
        raise ConfigError(f"there is no bank at {present}")
    with closing(sqlite3.connect((present / CATALOG).absolute().as_uri() + "?mode=ro", uri=True)) as other:
        forgotten = dict(sorted(_deletions(other), key=lambda row: row[1]))
    with closing(sqlite3.connect(folder / CATALOG)) as database:
        rows = database.execute("SELECT tenant, id, created FROM memories").fetchall()
    with Bank(folder) as bank:
        for tenant, memory_id, created in rows:
            if forgotten.get(memory_hash(tenant, memory_id), 0) > created:
                bank.forget(tenant, memory_id)
                continue
            gone = [
                Span(entry.start, entry.end)
                for entry in bank.logs.entries(tenant, memory_id)
                if memory_hash(tenant, entry_key(memory_id, entry.number)) in forgotten
            ]
            if gone:  # whole entries, for which nothing is embedded
                name = bank.embedder(tenant) or ""
                bank.deletion.erase(tenant, memory_id, gone, _no_embedding, embedder=name)


def _no_embedding(document: Document) -> NoReturn:
    raise BankError("entries are erased without making vectors")


def _count(folder: Path) -> int:
    """Bring the restored catalog up to date, as opening it does; how many memories it holds."""
    catalog = Catalog(folder / CATALOG, 10.0)
    try:
        with catalog.write() as connection:
            return int(connection.exec_driver_sql("SELECT count(*) FROM memories").scalar_one())
    finally:
        catalog.close()


def _sync(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            sync_folder(path)
            continue
        with path.open("rb") as file:
            os.fsync(file.fileno())
