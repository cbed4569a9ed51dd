"""Create a bank from a backup that `memkit.bank.backup` wrote."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
from contextlib import closing
from pathlib import Path
from typing import IO, NoReturn

from memkit.bank.archive import CATALOG, FORMAT, LISTING, MAX_LISTING, MEMBER_NAME, tombstones
from memkit.bank.artifact_store import sync_folder
from memkit.bank.bank import Bank
from memkit.bank.catalog import Catalog
from memkit.bank.error_mapping import mapped_errors
from memkit.bank.types import entry_key, memory_hash
from memkit.config import expanded
from memkit.document import Document, Span
from memkit.errors import BankError, ConfigError


def restore(file: str | Path, path: str | Path, *, deletions: str | Path | None = None) -> int:
    """Create a bank at ``path`` from a backup and return its number of memories.

    Memories that the bank at ``deletions`` has forgotten since the backup are left out, so that an old
    backup does not bring them back. Either the whole bank is created or nothing. Raises `ConfigError` when
    ``path`` is not empty or ``file`` or the bank at ``deletions`` is absent, and `BankError` when ``file``
    is damaged or not a backup.
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
    digests, listing = dict[str, str](), None
    try:
        with file.open("rb") as data, tarfile.open(fileobj=data, mode="r:") as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isreg() else None
                if content is None:
                    raise _damaged(file, f"{member.name!r:.80} is no file")
                if member.name == LISTING and member.size <= MAX_LISTING:
                    listing = json.load(content)
                elif MEMBER_NAME.fullmatch(member.name) and member.name not in digests:
                    digests[member.name] = _copy(content, folder / member.name)
                else:
                    raise _damaged(file, f"it holds {member.name!r:.80}")
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {file}") from error
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise _damaged(file, str(error)) from error
    if not isinstance(listing, dict) or listing.get("format") != FORMAT:
        raise _damaged(file, "it is cut off, or made by a newer memkit")
    if listing.get("files") != digests or CATALOG not in digests:
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


def _forget_again(folder: Path, present: Path) -> None:
    """Forget in the bank at ``folder`` what the bank at ``present`` has forgotten since the backup."""
    if not (present / CATALOG).is_file():
        raise ConfigError(f"there is no bank at {present}")
    with closing(sqlite3.connect((present / CATALOG).absolute().as_uri() + "?mode=ro", uri=True)) as other:
        forgotten = dict(sorted(tombstones(other), key=lambda row: row[1]))
    with closing(sqlite3.connect(folder / CATALOG)) as database:
        rows = database.execute("SELECT tenant, id, created FROM memories").fetchall()
    with Bank(folder) as bank:
        for tenant, memory_id, created in rows:
            if forgotten.get(memory_hash(tenant, memory_id), 0) > created:
                bank.forget(tenant, memory_id)
                continue
            erased = [
                Span(entry.start, entry.end)
                for entry in bank.logs.entries(tenant, memory_id)
                if memory_hash(tenant, entry_key(memory_id, entry.number)) in forgotten
            ]
            if erased:  # whole entries are erased, so nothing has to be embedded
                name = bank.embedder(tenant) or ""
                bank.deletion.erase(tenant, memory_id, erased, _no_embedding, embedder=name)


def _no_embedding(document: Document) -> NoReturn:
    raise BankError("erasing whole entries embeds nothing")


def _count(folder: Path) -> int:
    """Migrate the restored catalog to the newest schema; its number of memories."""
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
