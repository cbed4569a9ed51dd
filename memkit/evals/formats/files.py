"""Read the JSON values of a file: JSON lines or a JSON list, optionally compressed."""

from __future__ import annotations

import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from memkit.errors import ConfigError, DocumentError
from memkit.evals.formats.base import Node

UNREADABLE = (OSError, EOFError, lzma.LZMAError, zlib.error)
GZIP, XZ = b"\x1f\x8b", b"\xfd7zXZ\x00"


def rows(path: Path) -> Iterator[Node]:
    """The values of JSON lines, or the members of one JSON list; gzip and xz are decompressed.

    JSON lines are streamed. Raises `ConfigError` for a missing file and `DocumentError` for one that cannot
    be read or is not JSON.
    """
    try:
        with opened(path) as file:
            yield from _values(file, path)
    except UNREADABLE as error:
        raise DocumentError(f"cannot read {path}: {error}") from error


def text(path: Path) -> str:
    """The text of a file, decompressed. Raises like `rows`."""
    try:
        with opened(path) as file:
            return str(file.read().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DocumentError(f"{path} is not UTF-8 (byte {error.start})") from error
    except UNREADABLE as error:
        raise DocumentError(f"cannot read {path}: {error}") from error


def opened(path: Path) -> IO[bytes]:
    """The file, opened for reading and decompressed according to its first bytes."""
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    with path.open("rb") as file:
        start = file.read(6)
    if start.startswith(GZIP):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    return lzma.open(path, "rb") if start.startswith(XZ) else path.open("rb")


def _values(file: IO[bytes], path: Path) -> Iterator[Node]:
    first = True
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            if not first:
                raise _no_json(path, number, error) from error
            value = _whole(
                line + file.read(), path, number
            )  # not JSON lines but one value over several lines
        if first and isinstance(value, list):
            yield from (Node(member, "record", i) for i, member in enumerate(value, start=1))
        else:
            yield Node(value, "line", number)
        first = False


def _whole(data: bytes, path: Path, first_line: int) -> Any:
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        raise _no_json(path, first_line + error.lineno - 1, error) from error
    except (ValueError, RecursionError) as error:
        raise _no_json(path, first_line, error) from error


def _no_json(path: Path, number: int, error: Exception) -> DocumentError:
    why = error.msg if isinstance(error, json.JSONDecodeError) else error
    return DocumentError(f"{path}, line {number}: not JSON ({why})")
