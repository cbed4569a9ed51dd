"""What people type, in one form: text that looks the same compares as the same.

A source is kept as it was given; what it is found by and told apart by is its normal form.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import regex

# Of compatibility characters, those that look like what they decompose to: widths, no-break spaces, ligatures
# and the shapes of Arabic letters. Superscripts and fractions do not: 10² is not 102.
_SAME = frozenset(("<wide>", "<narrow>", "<noBreak>", "<initial>", "<medial>", "<final>", "<isolated>"))
_LIGATURES = range(0xFB00, 0xFB50)
# Variation selectors and tags, beside the characters that Unicode calls formats (Cf), are not seen.
_HIDDEN = r"\p{Cf}\uFE00-\uFE0F\u034F\u115F\u1160\u17B4\u17B5\u3164\U000E0100-\U000E01EF"
_UNSEEN = regex.compile(rf"[{_HIDDEN}]+")
_SHOWN = regex.compile(rf"[^\s{_HIDDEN}]")
_LOOKALIKE = regex.compile(
    r"[\u00A0\u1680\u2000-\u200A\u202F\u205F\u3000\uFB00-\uFDFF\uFE30-\uFE6F\uFE70-\uFEFC\uFF01-\uFFEE]"
)
_BREAK = regex.compile(r"\r\n?|\x0B|\x0C|\x85|\u2028|\u2029")
_SPACE = regex.compile(r"(?<![^\S\n])[^\S\n]++$", regex.MULTILINE)  # each run is looked at once
# Letters of scripts that put no spaces between words, as a part of a pattern.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_LETTERS = r"\p{L}\p{M}\p{N}_"
_WORD = regex.compile(rf"[{UNSPACED}][{UNSPACED}\p{{M}}]*|[{_LETTERS}--{UNSPACED}]+", regex.V1)
_IN_UNSPACED = regex.compile(rf"[{UNSPACED}]")
_GRAPHEME = regex.compile(r"\X")


def normalize(text: str) -> str:
    """A text as it looks: composed (NFC), in letters of one width, without characters that are not seen,
    its lines ended by ``\\n`` and without spaces at the ends of lines or of the text."""
    text = _BREAK.sub("\n", text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", _LOOKALIKE.sub(_seen, _UNSEEN.sub("", text)))
    return _SPACE.sub("", text).strip()


def _seen(found: regex.Match[str]) -> str:
    return _as_seen(found.group())


@lru_cache(maxsize=4096)
def _as_seen(character: str) -> str:
    tag = unicodedata.decomposition(character).partition(" ")[0]
    if tag in _SAME or (ord(character) in _LIGATURES and tag):
        return unicodedata.normalize("NFKC", character)
    return " " if character.isspace() and character != "\n" else character


def is_blank(text: str) -> bool:
    """Whether there is nothing to see in a text."""
    return _SHOWN.search(text) is None


def folded(text: str) -> str:
    """A text's normal form without the difference of case, for matching."""
    return normalize(text).casefold()


def places(text: str, wanted: str) -> list[tuple[int, int]]:
    """Where a text holds what looks like ``wanted``: characters ``[start, end)``, which do not overlap."""
    spelled, origin = _spelled(text)
    sought, _ = _spelled(wanted)
    found, at = list[tuple[int, int]](), 0
    while sought and (at := spelled.find(sought, at)) >= 0:
        end = at + len(sought)
        last = origin[end] if end < len(origin) else len(text)
        if not (end < len(spelled) and unicodedata.combining(spelled[end])):  # e is not é
            found.append((origin[at], last))
            at = end
        else:
            at += 1
    return found


def _spelled(text: str) -> tuple[str, list[int]]:
    """A text's characters as they look, decomposed (NFD), and the place that each comes from."""
    out, origin = list[str](), list[int]()
    for at, character in enumerate(text):
        if _UNSEEN.fullmatch(character) or (character == "\n" and text[at - 1 : at] == "\r"):
            continue
        seen = "\n" if _BREAK.fullmatch(character) else _as_seen(character)
        for part in unicodedata.normalize("NFD", seen):
            out.append(part)
            origin.append(at)
    return "".join(out), origin


def words(text: str) -> Iterator[str]:
    """The words of a text's normal form, in order; of scripts without spaces, pairs of characters.

    Hyphens part words: Anna-Maria is Anna Maria.
    """
    return (word for _, word in words_at(normalize(text)))


def words_at(plain: str) -> Iterator[tuple[int, str]]:
    """The words of a text that is in normal form, each with the place where it begins."""
    for found in _WORD.finditer(plain):
        word, start = found.group(), found.start()
        if not _IN_UNSPACED.match(word):
            yield start, word
            continue
        units = _GRAPHEME.findall(word)
        pairs = ["".join(pair) for pair in pairwise(units)] or units
        yield from ((start, pair) for pair in pairs)


def boundary(text: str, start: int, end: int) -> int:
    """The last place in ``(start, end]`` where a text can be cut: between words, else between characters as
    they are seen, else ``end``."""
    if end >= len(text):
        return len(text)
    for at in range(end, max(start, end - (end - start) // 2), -1):
        before, after = text[at - 1], text[at]
        if not (_inside(before) and _inside(after)) and not unicodedata.category(after).startswith("M"):
            return at
    edges = [found.end() for found in _GRAPHEME.finditer(text, start, min(end + 64, len(text)))]
    return max((at for at in edges if start < at <= end), default=end)


def _inside(character: str) -> bool:
    """Whether a character is of a word."""
    return character in "-_\u00ad\u200b\u200c\u200d" or unicodedata.category(character)[0] in "LMNS"
