"""With an upstream the server is transparent: what is answered comes back as it came."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("openai")

import anyio
import httpx2
import openai
from hypothesis import given, settings
from hypothesis import strategies as st
from proxy_kit import ANSWER, ASKED, ODD, Raw, events, post, streamed

from memkit.server.config import ServerConfig
from memkit.server.passing import headers_of, marked
from memkit.server.testing import Served, remember, running, served
from memkit.testing import TEXT


@pytest.fixture(scope="module")
def raw() -> Raw:
    return Raw()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, raw: Raw) -> Iterator[Served]:
    with running(raw) as url:
        config = ServerConfig(tmp_path_factory.mktemp("proxy") / "bank", upstream=f"{url}/v1", rate=10**6)
        with served(config) as made:
            with made.client("acme", "mira") as mira:
                remember(mira, TEXT)
            yield made


@pytest.fixture
def upstream(raw: Raw) -> Raw:
    raw.__init__()  # type: ignore[misc] # as new
    return raw


@pytest.fixture(scope="module")
def shared(server: Served) -> Iterator[httpx2.Client]:
    with server.client("acme") as made:
        yield made


@pytest.fixture
def client(shared: httpx2.Client, upstream: Raw) -> httpx2.Client:
    return shared


# -- streams --------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_separators_of_unicode_are_text_inside_an_event(
    server: Served, client: httpx2.Client, upstream: Raw, size: int
) -> None:
    data = events(ODD, "\u2028", "end")
    streamed(upstream, [data[at : at + size] for at in range(0, len(data), size)])
    got = post(client, {**ASKED, "stream": True})
    lines = got.content.split(b"\n\n")
    assert lines[1:] == data.split(b"\n\n")[1:]
    first = json.loads(lines[0].removeprefix(b"data: "))
    assert first["choices"][0]["delta"]["content"] == ODD
    assert (first["memkit"]["user"], first["memkit"]["route"]) == ("mira", "text")
    with openai.OpenAI(api_key=server.key("acme"), base_url=f"{server.url}/v1", max_retries=0) as theirs:
        asked = theirs.chat.completions.create(**ASKED, stream=True)
        assert "".join(each.choices[0].delta.content or "" for each in asked) == f"{ODD}\u2028end"


def test_lines_may_end_with_a_carriage_return_and_comments_pass(client: httpx2.Client, upstream: Raw) -> None:
    data = b': ping\r\nevent: message\r\ndata:{"a": "\xe2\x80\xa8"}\r\n\r\ndata: {"b": 1}\r\n\r\n'
    data += b"data: [DONE]\r\n\r\n"
    streamed(upstream, [data])
    got = post(client, {**ASKED, "stream": True}).content
    head, _, tail = got.partition(b"\r\n\r\n")
    before, marked_line = head.rsplit(b"\r\n", 1)
    assert before == b": ping\r\nevent: message"
    assert json.loads(marked_line.removeprefix(b"data:"))["a"] == "\u2028"
    assert b'"memkit"' in marked_line
    assert tail == data.partition(b"\r\n\r\n")[2]


async def pieces_of(data: bytes, cuts: list[int]) -> Any:
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


def test_a_stream_without_events_is_passed_on_whole(client: httpx2.Client, upstream: Raw) -> None:
    streamed(upstream, [b"x" * 600_000, b"y" * 600_000, b"z"])
    assert post(client, {**ASKED, "stream": True}).content == b"x" * 600_000 + b"y" * 600_000 + b"z"


def test_an_upstream_that_compresses(client: httpx2.Client, upstream: Raw) -> None:
    streamed(upstream, [gzip.compress(events(ODD))], **{"content-encoding": "gzip"})
    got = post(client, {**ASKED, "stream": True})
    assert "content-encoding" not in got.headers
    assert (
        json.loads(got.content.split(b"\n")[0].removeprefix(b"data:"))["choices"][0]["delta"]["content"]
        == ODD
    )
    upstream.headers = [("content-type", "application/json"), ("content-encoding", "gzip")]
    upstream.parts = [gzip.compress(ANSWER)]
    assert post(client, ASKED).json()["memkit"]["route"] == "text"
    upstream.headers[1] = ("content-encoding", "br")  # which nobody asked for
    upstream.parts = [b"\x0b\x02\x80{}\x03"]
    with client.stream("POST", "/v1/chat/completions", json=ASKED) as answer:
        assert answer.headers["content-encoding"] == "br"
        assert b"".join(answer.iter_raw()) == b"\x0b\x02\x80{}\x03"


# -- answers and refusals -------------------------------------------------------------------------
def test_an_answer_is_its_bytes_and_one_field(client: httpx2.Client, upstream: Raw) -> None:
    got = post(client, ASKED)
    assert got.content.startswith(ANSWER[:-1] + b',"memkit": {')
    assert got.json()["memkit"]["memory_id"] == got.headers["x-memkit-memory"]
    upstream.parts = [b"[1, 2]"]
    assert post(client, ASKED).content == b"[1, 2]"
    upstream.parts = [b'{"a":"' + b"x" * 2**20 * 17 + b'"}']  # too long to be read first
    assert post(client, ASKED).content == upstream.parts[0]


LIMITS = {
    "retry-after": "17",
    "retry-after-ms": "17000",
    "x-request-id": "req_theirs",
    "x-ratelimit-limit-requests": "60",
    "x-ratelimit-remaining-tokens": "0",
    "x-ratelimit-limit": "61",
    "openai-processing-ms": "12",
    "openai-version": "2020-10-01",
    "x-should-retry": "true",
}
OWN = {
    "connection": "x-secret, close",
    "x-secret": "of the connection",
    "keep-alive": "timeout=5",
    "set-cookie": "session=theirs",
    "server": "theirs",
    "access-control-allow-origin": "*",
    "content-security-policy": "default-src *",
    "x-accel-redirect": "/etc/passwd",
    "x-memkit-user": "other",
}


@pytest.mark.parametrize("status", [200, 400, 429, 500, 503])
@pytest.mark.parametrize("html", [False, True])
def test_limits_of_the_upstream_reach_the_caller(
    client: httpx2.Client, upstream: Raw, status: int, html: bool
) -> None:
    if status == 200 and html:
        return
    kind = "text/html" if html else "application/json"
    upstream.status = status
    upstream.headers = [("content-type", kind), *LIMITS.items(), *OWN.items()]
    upstream.parts = [
        b"<html>Too many requests</html>" if html else b'{"error": {"message": "slow", "type": "x"}}'
    ]
    got = post(client, ASKED)
    assert got.status_code == status
    assert got.json()["error"]["message"] == (f"the upstream answered {status}" if html else "slow")
    for name, value in LIMITS.items():
        given = f"x-upstream-{name[2:]}" if html and name == "x-request-id" else name
        assert got.headers[given] == value
    if html:
        assert got.json()["error"]["request_id"] == got.headers["x-request-id"]
        assert "<html>" not in got.text
    for name, value in OWN.items():
        assert got.headers.get(name) != value
    assert "default-src 'none'" in got.headers["content-security-policy"]


def test_a_client_learns_how_long_to_wait(server: Served, client: httpx2.Client, upstream: Raw) -> None:
    upstream.status, upstream.parts = 429, [b"<html></html>"]
    upstream.headers = [("content-type", "text/html"), ("retry-after", "3")]
    for stream in (False, True):
        with openai.OpenAI(api_key=server.key("acme"), base_url=f"{server.url}/v1", max_retries=0) as theirs:
            with pytest.raises(openai.RateLimitError) as caught:
                theirs.chat.completions.create(**ASKED, stream=stream)
            assert caught.value.response.headers["retry-after"] == "3"


def test_a_long_refusal_keeps_its_status(client: httpx2.Client, upstream: Raw) -> None:
    upstream.status, upstream.parts = 429, [b"x" * 50_000] * 10
    assert post(client, ASKED).status_code == 429


def test_an_upstream_that_sends_its_callers_elsewhere(client: httpx2.Client, upstream: Raw) -> None:
    upstream.status, upstream.headers = 302, [("location", "http://127.0.0.1:1/")]
    got = post(client, ASKED)
    assert (got.status_code, got.json()["error"]["code"]) == (502, "upstream_unusable")


def test_headers_that_are_passed_on() -> None:
    assert headers_of({"Connection": "A, b", "a": "1", "B": "2", "c": "3"}) == {"c": "3"}
