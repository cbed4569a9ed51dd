"""The formats by name, and records of a file in any of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from memkit.config import expanded
from memkit.errors import ConfigError, DocumentError
from memkit.evals.formats import conversations, multidoc, own, squad, summaries
from memkit.evals.formats.base import Format, MalformedError, Node, Record
from memkit.evals.formats.files import rows

# A file without a named format has the first one that recognises it.
FORMATS: dict[str, Format] = {
    each.name: each for module in (own, squad, multidoc, summaries, conversations) for each in module.FORMATS
}


def read(source: str) -> Iterator[Record]:
    """The records of ``FILE``, in the format recognised by its first value, or of ``FORMAT:FILE``.

    Raises `ConfigError` for a missing file or an unknown format, and `DocumentError`, with line or record and
    field, for a file in no known format or a malformed one.
    """
    named, path = _split(source)
    values = rows(path)
    first = next(values, None)
    if first is None:
        return
    chosen = named or _recognised(first, path)
    try:
        for value in chain([first], values):
            yield from chosen.records(value)
    except MalformedError as error:
        raise DocumentError(f"{path}, {error} (read as {chosen.name})") from error


def _split(source: str) -> tuple[Format | None, Path]:
    named = re.match(r"([a-z][a-z0-9-]+):(.*)", source)  # two letters at least: one is a drive
    if named is None or expanded(source).exists():
        return None, expanded(source)
    if named[1] not in FORMATS:
        raise ConfigError(f"there is no format {named[1]!r}; there are: {', '.join(FORMATS)}")
    return FORMATS[named[1]], expanded(named[2])


def _recognised(first: Node, path: Path) -> Format:
    for known in FORMATS.values():
        if known.matches(first):
            return known
    content = f"the fields {', '.join(first.value)}" if isinstance(first.value, dict) else first.kind
    raise DocumentError(
        f"{path}, {first.unit} {first.number}: {content}, which is no format known here. "
        f"Name one as FORMAT:FILE; there are: {', '.join(FORMATS)}"
    )
