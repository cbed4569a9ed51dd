"""Documents: the source texts of memories, validated at construction."""

from __future__ import annotations

import codecs
import hashlib
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from memkit.config import expanded
from memkit.errors import DocumentError
from memkit.text.normalize import boundary, is_blank, normalize

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]+")
_SENTENCE_END = re.compile(r"(?<=[.!?。！？])\s+|\n{2,}")
SHOWN = 200  # characters of a path in a message
_MARKS = (  # the longer ones first: UTF-32's begins like UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)


@dataclass(frozen=True)
class Span:
    """Characters ``[start, end)`` of a document."""

    start: int
    end: int


def sentences(text: str) -> list[Span]:
    """The spans of a text's sentences; paragraphs end sentences, and blank spans are skipped."""
    ends = [m.end() for m in _SENTENCE_END.finditer(text)] + [len(text)]
    spans = [Span(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    return [s for s in spans if text[s.start : s.end].strip()]


@dataclass(frozen=True)
class Document:
    """A non-empty Unicode text with a title.

    Raises `DocumentError` for a text that is empty or looks binary: one with NUL characters, or with more
    than one control character in twenty.
    """

    text: str
    title: str = ""

    def __post_init__(self) -> None:
        if is_blank(self.text):
            raise DocumentError("the document is empty: there is nothing to remember")
        control = sum(len(match.group()) for match in _CONTROL.finditer(self.text))
        if "\x00" in self.text or control * 20 > len(self.text):
            raise DocumentError("the document looks binary: give plain text (extract it first)")
        try:
            self.text.encode()
        except UnicodeEncodeError as error:
            raise DocumentError(f"the document holds a lone surrogate at character {error.start}") from error

    @classmethod
    def from_bytes(cls, data: bytes, title: str = "") -> Document:
        """Decode UTF-8, or UTF-16 or UTF-32 if a byte-order mark says so. Raises `DocumentError`."""
        encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
        if encoding == "utf-8" and b"\x00" in data:
            raise DocumentError(
                "the document looks binary: give plain text (extract it first); UTF-16 needs its "
                "byte-order mark"
            )
        try:
            return cls(data.decode(encoding), title)
        except UnicodeDecodeError as error:
            name, how = encoding.removesuffix("-sig").upper(), ""
            if name == "UTF-8":
                how = ", or convert it, for example: iconv -f LATIN1 -t UTF-8 FILE"
            raise DocumentError(
                f"the document is not {name} (byte {error.start}); save it as UTF-8{how}"
            ) from error

    @classmethod
    def from_file(cls, path: str | Path) -> Document:
        """Read a text file in UTF-8, UTF-16 or UTF-32; its name becomes the title.

        Bytes of the name that are not UTF-8 become U+FFFD. Raises `DocumentError` for a file that cannot be
        read or decoded.
        """
        path = expanded(path)
        try:
            data = path.read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "no file can have that name"
            shown = str(path) if len(str(path)) <= SHOWN else f"{str(path)[:SHOWN]}..."
            raise DocumentError(f"cannot read {shown}: {reason}; give the path of a text file") from error
        return cls.from_bytes(data, title=os.fsencode(path.name).decode(errors="replace"))

    @property
    def digest(self) -> str:
        """SHA-256 of the UTF-8 text, in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @cached_property  # read several times when a document is remembered
    def identity(self) -> str:
        """SHA-256 of the normalized text, in hex: equal for documents that look the same."""
        return hashlib.sha256(normalize(self.text).encode()).hexdigest()

    def chunks(self, size: int = 480) -> list[Span]:
        """Consecutive spans of at most ``size`` characters, cut between sentences if possible, else words.

        Raises `ValueError` for a ``size`` below 1.
        """
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        ends = [m.end() for m in _SENTENCE_END.finditer(self.text)] + [len(self.text)]
        spans, start, last = list[Span](), 0, 0
        for end in ends:
            if end - start > size and last > start:
                spans.append(Span(start, last))
                start = last
            while end - start > size:  # one sentence longer than a chunk
                cut = boundary(self.text, start, start + size)
                spans.append(Span(start, cut))
                start = cut
            last = end
        if start < len(self.text):
            spans.append(Span(start, len(self.text)))
        return [s for s in spans if self.text[s.start : s.end].strip()]
