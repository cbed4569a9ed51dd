"""Unicode normalization: text that looks the same compares as equal.

Sources are stored unchanged; they are searched and compared in their normal form.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

import regex

# Compatibility characters that look like their decomposition: widths, no-break spaces, ligatures and the
# forms of Arabic letters. Superscripts and fractions do not: 10² is not 102.
_LOOKALIKE_TAGS = frozenset(
    ("<wide>", "<narrow>", "<noBreak>", "<initial>", "<medial>", "<final>", "<isolated>")
)
_LIGATURES = range(0xFB00, 0xFB50)
# Invisible characters: Unicode's format characters (Cf), variation selectors and tags.
_INVISIBLE = r"\p{Cf}\uFE00-\uFE0F\u034F\u115F\u1160\u17B4\u17B5\u3164\U000E0100-\U000E01EF"
_INVISIBLE_RUN = regex.compile(rf"[{_INVISIBLE}]+")
_VISIBLE = regex.compile(rf"[^\s{_INVISIBLE}]")
_LOOKALIKE = regex.compile(
    r"[\u00A0\u1680\u2000-\u200A\u202F\u205F\u3000\uFB00-\uFDFF\uFE30-\uFE6F\uFE70-\uFEFC\uFF01-\uFFEE]"
)
_LINE_BREAK = regex.compile(r"\r\n?|\x0B|\x0C|\x85|\u2028|\u2029")
_TRAILING_SPACE = regex.compile(r"(?<![^\S\n])[^\S\n]++$", regex.MULTILINE)  # linear: reads each run once
# Letters of scripts without spaces between words, as part of a regular expression.
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_LETTERS = r"\p{L}\p{M}\p{N}_"
_WORD = regex.compile(rf"[{UNSPACED}][{UNSPACED}\p{{M}}]*|[{_LETTERS}--{UNSPACED}]+", regex.V1)
_IN_UNSPACED = regex.compile(rf"[{UNSPACED}]")
_GRAPHEME = regex.compile(r"\X")


def normalize(text: str) -> str:
    """The normal form of a text: composed (NFC), with letters of one width, without invisible characters.

    Lines end with ``\\n``; spaces at the ends of lines and around the text are removed.
    """
    text = _LINE_BREAK.sub("\n", text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", _LOOKALIKE.sub(_replace, _INVISIBLE_RUN.sub("", text)))
    return _TRAILING_SPACE.sub("", text).strip()


def _replace(match: regex.Match[str]) -> str:
    return _canonical(match.group())


@lru_cache(maxsize=4096)
def _canonical(character: str) -> str:
    tag = unicodedata.decomposition(character).partition(" ")[0]
    if tag in _LOOKALIKE_TAGS or (ord(character) in _LIGATURES and tag):
        return unicodedata.normalize("NFKC", character)
    return " " if character.isspace() and character != "\n" else character


def is_blank(text: str) -> bool:
    """Whether a text has no visible character."""
    return _VISIBLE.search(text) is None


def folded(text: str) -> str:
    """The case-folded normal form of a text, for matching."""
    return normalize(text).casefold()


def occurrences(text: str, wanted: str) -> list[tuple[int, int]]:
    """The spans ``[start, end)`` of ``text``, without overlap, that look like ``wanted``."""
    haystack, origin = _decomposed(text)
    needle, _ = _decomposed(wanted)
    spans, at = list[tuple[int, int]](), 0
    while needle and (at := haystack.find(needle, at)) >= 0:
        end = at + len(needle)
        last = origin[end] if end < len(origin) else len(text)
        if not (end < len(haystack) and unicodedata.combining(haystack[end])):  # e is not é
            spans.append((origin[at], last))
            at = end
        else:
            at += 1
    return spans


def _decomposed(text: str) -> tuple[str, list[int]]:
    """A text's visible characters, decomposed (NFD), and the position in ``text`` of each."""
    out, origin = list[str](), list[int]()
    for at, character in enumerate(text):
        if _INVISIBLE_RUN.fullmatch(character) or (character == "\n" and text[at - 1 : at] == "\r"):
            continue
        canonical = "\n" if _LINE_BREAK.fullmatch(character) else _canonical(character)
        for part in unicodedata.normalize("NFD", canonical):
            out.append(part)
            origin.append(at)
    return "".join(out), origin


def words(text: str) -> Iterator[str]:
    """The words of a text's normal form, in order; in scripts without spaces, pairs of characters.

    Hyphens separate words: "Anna-Maria" has two.
    """
    return (word for _, word in words_at(normalize(text)))


def words_at(plain: str) -> Iterator[tuple[int, str]]:
    """The words of a text in normal form, each after its position."""
    for match in _WORD.finditer(plain):
        word, start = match.group(), match.start()
        if not _IN_UNSPACED.match(word):
            yield start, word
            continue
        units = _GRAPHEME.findall(word)
        pairs = ["".join(pair) for pair in pairwise(units)] or units
        yield from ((start, pair) for pair in pairs)


def boundary(text: str, start: int, end: int) -> int:
    """The last position in ``(start, end]`` where a text can be cut.

    That is between words, or else between graphemes, or else ``end``.
    """
    if end >= len(text):
        return len(text)
    for at in range(end, max(start, end - (end - start) // 2), -1):
        before, after = text[at - 1], text[at]
        if not (_in_word(before) and _in_word(after)) and not unicodedata.category(after).startswith("M"):
            return at
    edges = [match.end() for match in _GRAPHEME.finditer(text, start, min(end + 64, len(text)))]
    return max((at for at in edges if start < at <= end), default=end)


def _in_word(character: str) -> bool:
    """Whether a character belongs to a word."""
    return character in "-_\u00ad\u200b\u200c\u200d" or unicodedata.category(character)[0] in "LMNS"
