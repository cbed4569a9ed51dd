"""How another server's answers and a conversation's messages are passed on, piece by piece."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

pytest.importorskip("fastapi")

import anyio
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.server.response_passthrough import headers_of, marked, with_field
from memkit.server.upstream import framed, latest

QUESTION: dict[str, Any] = {"role": "user", "content": "Where does Mira live?"}


def events(*texts: str) -> bytes:
    """Server-sent events that hold texts as they are, as servers in other languages write them."""
    chunks = [{"id": "x", "choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    lines = [f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n" for chunk in chunks]
    return ("".join(lines) + "data: [DONE]\n\n").encode()


async def pieces_of(data: bytes, cuts: list[int]) -> AsyncGenerator[bytes, None]:
    at = 0
    for cut in sorted(cut % (len(data) + 1) for cut in cuts):
        if cut > at:
            yield data[at:cut]
            at = cut
    yield data[at:]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=1), st.lists(st.integers(0, 999))
)
def test_a_stream_is_the_same_however_it_is_cut(texts: list[str], cuts: list[int]) -> None:
    data = events(*texts)

    async def main() -> bytes:
        return b"".join([piece async for piece in marked(pieces_of(data, cuts), "memkit", {"a": 1})])

    got = anyio.run(main)
    first, rest = data.split(b"\n", 1)
    assert got.split(b"\n", 1)[1] == rest
    chunk = json.loads(got.split(b"\n", 1)[0].removeprefix(b"data:"))
    assert chunk.pop("memkit") == {"a": 1}
    assert chunk == json.loads(first.removeprefix(b"data: "))


def test_headers_that_are_passed_on() -> None:
    assert headers_of({"Connection": "A, b", "a": "1", "B": "2", "c": "3"}) == {"c": "3"}


@pytest.mark.parametrize(
    ("content", "made"),
    [("Be brief.", "Be brief.\n\nM"), ("", "M"), (None, "M"), ([], [{"type": "text", "text": "M"}])],
)
def test_instructions_of_every_form(content: Any, made: Any) -> None:
    assert framed([{"role": "system", "content": content}], "M") == [{"role": "system", "content": made}]
    assert framed([QUESTION], "M") == [{"role": "system", "content": "M"}, QUESTION]
    odd: list[Any] = [{"role": "system", "content": {"a": 1}}, QUESTION]
    assert framed(odd, "M") == [{"role": "system", "content": "M"}, *odd]


def test_what_the_user_said_last() -> None:
    assert latest([{"role": "user", "content": [{"text": "a"}, {"type": "image"}, "b", 1]}]) == "a\nb"
    assert latest([QUESTION, {"role": "assistant", "content": "x"}]) == QUESTION["content"]
    odd: tuple[Any, ...] = (None, 1, "x", {}, [], [1, None], [{"role": "user"}])
    for each in (*odd, [{"role": "user", "content": 5}]):
        assert latest(each) == ""


def test_a_field_is_added_to_objects_only() -> None:
    assert with_field(b'{"a": 1.50}\n', "b", None) == b'{"a": 1.50,"b": null}\n'
    assert with_field(b" {} ", "b", 1) == b' {"b": 1} '
    assert json.loads(with_field(b'{"a": 1, "b": {"c": 2}}', "b", 1)) == {"a": 1, "b": 1}
    assert with_field('{"b": 0, "a": "ü"}'.encode(), "b", 1).count(b'"b"') == 1
    for odd in (b"", b"1", b"[{}]", b"{", b'"}"', '{"a": 1}'.encode("utf-16")):
        assert with_field(odd, "b", 1) == odd


LOOK: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}


@pytest.mark.parametrize(
    "after",
    [
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}],
        [LOOK, {"role": "tool", "tool_call_id": "1", "content": "It rains."}],
        [
            {**LOOK, "content": "I look."},
            {"role": "user", "content": [{"type": "tool_result", "content": "r"}]},
        ],
        [LOOK, {"role": "tool", "content": "r"}, LOOK, {"role": "tool", "content": "s"}],
    ],
)
def test_the_question_of_a_tool_loop_or_before_an_image(after: list[Any]) -> None:
    earlier = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hello."}]
    assert latest([*earlier, QUESTION, *after]) == QUESTION["content"]


def test_what_the_user_said_in_pieces() -> None:
    pieces = [{"role": "user", "content": text} for text in ("I met Mira.", "Where does she live?")]
    assert latest(pieces) == "I met Mira.\nWhere does she live?"
    assert (
        latest([QUESTION, {"role": "assistant", "content": "Keldor"}, *pieces[1:]]) == "Where does she live?"
    )
