"""What SQLite and the file system say when they fail, in memkit's errors and with a way out."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from memkit.errors import BankBusyError, BankError, BankFullError, BankReadOnlyError

_READ_ONLY = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_FOREIGN = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}
_FULL_ERRNO = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn failures of the bank at ``path`` into `BankError` and its kinds."""
    try:
        yield
    except PoolTimeoutError as error:
        raise busy(path) from error
    except DBAPIError as error:
        raise _from_sqlite(path, error.orig) from error
    except sqlite3.Error as error:
        raise _from_sqlite(path, error) from error
    except OSError as error:
        raise _from_system(path, error) from error


def read_only(path: Path) -> BankReadOnlyError:
    """The error for a write where none is allowed."""
    return BankReadOnlyError(
        f"the bank {path} cannot be written: make its folder and files writable for this user, "
        "or give another folder"
    )


def busy(path: Path) -> BankBusyError:
    """The error for a lock that did not come free in time."""
    return BankBusyError(
        f"another process keeps the bank {path} locked: try again, or open it with a longer timeout"
    )


def _full(path: Path) -> BankFullError:
    return BankFullError(
        f"no space is left for the bank {path}: free some, then try again; what was being "
        "written is not in the bank, and all that was there before is"
    )


def _from_sqlite(path: Path, error: BaseException | None) -> BankError:
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
    if code == sqlite3.SQLITE_CANTOPEN and not _may_write(path.parent):
        return read_only(path)
    return BankError(f"the bank {path} failed: {error}; check its disk and its permissions")


def _from_system(path: Path, error: OSError) -> BankError:
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return read_only(path)
    if error.errno in _FULL_ERRNO:
        return _full(path)
    return BankError(f"the bank {path} failed: {error}; check its disk and its permissions")


def _may_write(folder: Path) -> bool:
    effective = os.access in os.supports_effective_ids
    return not folder.exists() or os.access(folder, os.W_OK, effective_ids=effective)
