"""Map errors of SQLite, PostgreSQL and the file system to memkit's errors, with advice on what to do."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from memkit.errors import (
    BankBusyError,
    BankError,
    BankFullError,
    BankReadOnlyError,
    ConfigError,
    MemkitError,
)

_READ_ONLY = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_FOREIGN = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}
_POSTGRES_BUSY = {"55P03", "40001", "40P01"}  # lock not available, serialization failure, deadlock
_POSTGRES_FULL = {"53100", "53200"}
_POSTGRES_READ_ONLY = {"25006", "42501"}
_FULL_ERRNO = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_WRONG_PATH = {
    errno.ENAMETOOLONG: "the path, or a name in it, is too long",
    errno.ENOTDIR: "a part of the path is a file and not a folder",
    errno.EEXIST: "a file is where the folder should be",
    errno.EISDIR: "a folder is where a file should be",
    errno.ELOOP: "the path goes round in a circle of links",
}
_SHOWN = 200  # characters of a path in a message


@contextmanager
def mapped_errors(path: Path | str) -> Iterator[None]:
    """Raise errors of the bank at ``path`` as `BankError` or one of its subclasses."""
    if len(str(path)) > _SHOWN:
        path = f"{str(path)[:_SHOWN]}..."
    try:
        yield
    except PoolTimeoutError as error:
        raise busy(path) from error
    except DBAPIError as error:
        if hasattr(error.orig, "sqlstate"):
            raise _from_postgres(path, error.orig) from error
        raise _from_sqlite(path, error.orig) from error
    except sqlite3.Error as error:
        raise _from_sqlite(path, error) from error
    except OSError as error:
        raise _from_system(path, error) from error


def read_only(path: Path | str) -> BankReadOnlyError:
    """The error for a write to a bank that is read-only."""
    return BankReadOnlyError(
        f"the bank {path} cannot be written: make its folder and files writable for this user, "
        "or give another folder"
    )


def busy(path: Path | str) -> BankBusyError:
    """The error for a lock that was not released in time."""
    return BankBusyError(
        f"another process keeps the bank {path} locked: try again, or open it with a longer timeout"
    )


def _full(path: Path | str) -> BankFullError:
    return BankFullError(
        f"no space is left for the bank {path}: free some, then try again; what was being "
        "written is not in the bank, and all that was there before is"
    )


def _from_sqlite(path: Path | str, error: BaseException | None) -> BankError:
    extended = getattr(error, "sqlite_errorcode", None) or 0
    code = extended & 0xFF
    if code in _READ_ONLY:
        return read_only(path)
    if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE:
        return _full(path)
    if code in _BUSY:
        return busy(path)
    if code in _FOREIGN:
        return BankError(
            f"{path} is not a memkit bank, or is damaged ({error}): give another folder, or restore a backup"
        )
    if code == sqlite3.SQLITE_CANTOPEN and not _may_write(Path(path).parent):
        return read_only(path)
    return BankError(f"the bank {path} failed: {error}; check its disk and its permissions")


def _from_postgres(path: Path | str, error: Any) -> MemkitError:
    state = error.sqlstate or ""
    if not state and "NUL (0x00)" in str(error):
        return ConfigError(
            "a name or a text holds a NUL character, which PostgreSQL cannot keep: leave it out"
        )
    if state in _POSTGRES_BUSY:
        return busy(path)
    if state in _POSTGRES_FULL:
        return _full(path)
    if state in _POSTGRES_READ_ONLY:
        return BankReadOnlyError(f"the bank {path} cannot be written by this database user: {error}")
    if not state or state.startswith(("08", "57P")):
        return BankError(
            f"the database {path} cannot be reached, or was stopped ({str(error).strip()}): see that it "
            "runs, then try again; what was acknowledged is kept"
        )
    return BankError(f"the bank {path} failed: {str(error).strip()}")


def _from_system(path: Path | str, error: OSError) -> BankError:
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return read_only(path)
    if error.errno in _FULL_ERRNO:
        return _full(path)
    if why := _WRONG_PATH.get(error.errno or 0):
        named = str(error.filename or path)
        named = named if len(named) <= _SHOWN else f"{named[:_SHOWN]}..."
        return BankError(f"cannot use {named}: {why}; give another path")
    return BankError(f"the bank {path} failed: {error}; check its disk and its permissions")


def _may_write(folder: Path) -> bool:
    effective = os.access in os.supports_effective_ids
    return not folder.exists() or os.access(folder, os.W_OK, effective_ids=effective)
