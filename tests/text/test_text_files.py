"""Text files in the encodings that people have: read by their byte-order mark, or refused with a way out."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from memkit.document import Document
from memkit.errors import DocumentError

pytestmark = pytest.mark.wheel
TEXT = "Zoë lives in Ölbek 😀. 東京 is far away.\n"
Cli = Callable[..., Any]
ENCODINGS = {
    "utf-8": b"",
    "utf-8-sig": b"",  # which writes its mark
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_file_is_read_by_its_mark(cli: Cli, tmp_path: Path, encoding: str) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(ENCODINGS[encoding] + TEXT.encode(encoding))
    assert Document.from_file(file) == Document(TEXT, "notes.txt")
    plain = cli("remember", "-", "--json", stdin=TEXT.encode()).json["memory"]
    found = cli("remember", file, "--json").json["memory"]
    assert (found["id"], found["characters"]) == (plain["id"], len(TEXT))  # one memory, not two
    assert cli("remember", "-", "--json", stdin=file.read_bytes()).json["memory"]["id"] == plain["id"]


@given(st.text(min_size=1), st.sampled_from(sorted(ENCODINGS)))
def test_any_text_comes_back(text: str, encoding: str) -> None:
    try:
        wanted = Document(text)
    except DocumentError:
        assume(False)
    assume(not text.startswith("\ufeff"))  # a mark of the text's own, of which one goes
    assume(not (encoding == "utf-16-le" and text.startswith("\x00")))
    assert Document.from_bytes(ENCODINGS[encoding] + text.encode(encoding)) == wanted


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            "Zoë".encode("latin-1"),
            "is not UTF-8 (byte 2); save it as UTF-8, or convert it, for example: iconv",
        ),
        (codecs.BOM_UTF16_LE + b"a\x00b", "is not UTF-16 (byte 4); save it as UTF-8"),
        (codecs.BOM_UTF32_LE + b"abc", "is not UTF-32"),
        ("Zoë".encode("utf-16-le"), "UTF-16 needs its byte-order mark"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "looks binary"),
        (codecs.BOM_UTF16_LE + "a\x00b".encode("utf-16-le"), "binary"),
        (codecs.BOM_UTF8, "empty"),
        (codecs.BOM_UTF16_BE, "empty"),
    ],
)
def test_what_cannot_be_read_says_what_to_do(cli: Cli, tmp_path: Path, data: bytes, said: str) -> None:
    with pytest.raises(DocumentError, match="document") as caught:
        Document.from_bytes(data)
    assert said in str(caught.value)
    file = tmp_path / "notes.txt"
    file.write_bytes(data)
    done = cli("remember", file)
    assert (done.code, said in " ".join(done.err.split())) == (1, True)
