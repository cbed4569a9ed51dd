"""With an upstream the server is transparent: what came goes on as it came, there and back."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("openai")

import httpx2
import openai
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from memkit.bench.http_server import LiveServer, remember, running, served
from memkit.server.config import ServerConfig
from memkit.testing import TEXT

QUESTION: dict[str, Any] = {"role": "user", "content": "Where does Mira live?"}
ASKED: dict[str, Any] = {"model": "big", "messages": [QUESTION], "user": "mira"}
ODD = "a\u2028b\u2029c\u0085d\u000be"
ANSWER = b'{"id":"x","object":"chat.completion","choices":[],"n":1.10}'


@dataclass
class Raw:
    """A server that answers with these bytes, and keeps what it was sent."""

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=lambda: [("content-type", "application/json")])
    parts: list[bytes] = field(default_factory=lambda: [ANSWER])
    bodies: list[bytes] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    given: dict[str, str] = field(default_factory=dict)
    endless: bool = False
    left: bool = False  # whether somebody hung up

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(body)
        self.paths.append(scope["raw_path"].decode() + "?" + scope["query_string"].decode())
        self.given = {name.decode(): value.decode() for name, value in scope["headers"]}
        headers = [(name.encode(), value.encode()) for name, value in self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for part in self.parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        if self.endless:
            self.left = (await receive())["type"] == "http.disconnect"
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture(scope="module")
def raw() -> Raw:
    return Raw()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, raw: Raw) -> Iterator[LiveServer]:
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
def shared(server: LiveServer) -> Iterator[httpx2.Client]:
    with server.client("acme") as made:
        yield made


@pytest.fixture
def client(shared: httpx2.Client, upstream: Raw) -> httpx2.Client:
    return shared


def events(*texts: str) -> bytes:
    """Server-sent events that hold texts as they are, as servers in other languages write them."""
    chunks = [{"id": "x", "choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    lines = [f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n" for chunk in chunks]
    return ("".join(lines) + "data: [DONE]\n\n").encode()


def streamed(upstream: Raw, parts: list[bytes], **headers: str) -> None:
    upstream.parts = parts
    upstream.headers = [("content-type", "text/event-stream"), *headers.items()]


def post(client: httpx2.Client, body: dict[str, Any], **headers: str) -> httpx2.Response:
    return client.post("/v1/chat/completions", json=body, headers=headers)


# -- streams --------------------------------------------------------------------------------------
@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_separators_of_unicode_are_text_inside_an_event(
    server: LiveServer, client: httpx2.Client, upstream: Raw, size: int
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


def test_a_client_learns_how_long_to_wait(server: LiveServer, client: httpx2.Client, upstream: Raw) -> None:
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


# -- what is asked --------------------------------------------------------------------------------
LARGE = "x" * 100_001
TAKEN: list[dict[str, Any]] = [
    {"stop": ["a", "b", "c", "d", "e", "f" * 300]},
    {"messages": [QUESTION] * 1200},
    {"messages": [{"role": "critic", "content": "x", "wishes": 3}, QUESTION]},
    {"messages": [QUESTION, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
    {
        "messages": [
            QUESTION,
            {"role": "tool", "content": [{"type": "text", "text": "4"}], "tool_call_id": "1"},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": LARGE}, {"type": "video", "url": "x"}]}
        ]
    },
    {"messages": [{"role": "user", "content": {"odd": 1}}]},
    {"messages": []},
    {"messages": "Where does Mira live?"},
    {"messages": [1, None, "x"]},
    {"model": None, "seed": 2**70, "temperature": 9, "max_tokens": 0, "n": 5, "user": {"id": 3}},
    {"stream_options": "all", "stream": "yes", "logprobs": True, "response_format": {"type": "json_object"}},
    {"user": "", "metadata": {"": None}, "deep": [[[[1.25e-7, -0.0, 12345678901234567890]]]]},
]


@pytest.mark.parametrize("more", TAKEN)
def test_the_upstreams_own_limits_hold(client: httpx2.Client, upstream: Raw, more: dict[str, Any]) -> None:
    body = {**ASKED, "user": "nobody", **more}
    sent = json.dumps(body, indent=1).encode()
    got = client.post("/v1/chat/completions", content=sent)
    assert got.status_code == 200, got.text
    assert upstream.bodies == [sent]  # to the byte
    assert got.json()["memkit"]["route"] == "none"


@pytest.mark.parametrize("more", TAKEN)
def test_with_a_memory_only_the_instructions_change(
    client: httpx2.Client, upstream: Raw, more: dict[str, Any]
) -> None:
    body = {**ASKED, "user": "mira", **{key: value for key, value in more.items() if key != "user"}}
    got = post(client, body)
    assert got.status_code == 200, got.text
    sent = json.loads(upstream.bodies[0])
    if got.json()["memkit"]["route"] == "text":
        assert "Mira lives in Keldor" in sent["messages"].pop(0)["content"]
    assert sent == body


def test_the_memory_is_one_more_part_of_instructions_in_parts(client: httpx2.Client, upstream: Raw) -> None:
    cached: dict[str, Any] = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    for role in ("system", "developer"):
        system: dict[str, Any] = {"role": role, "content": [cached], "name": "boss"}
        for messages in ([system, QUESTION], [{"role": "assistant", "content": "Hello"}, system, QUESTION]):
            post(client, {**ASKED, "messages": messages})
            sent = json.loads(upstream.bodies[-1])["messages"]
            assert [each["role"] for each in sent] == [each["role"] for each in messages]
            (made,) = [each for each in sent if each["role"] == role]
            assert made["name"] == "boss"
            assert made["content"][0] == cached
            assert made["content"][1]["type"] == "text"
            assert "Mira lives in Keldor" in made["content"][1]["text"]
            assert len(made["content"]) == 2


@pytest.mark.parametrize("begun", [False, True])
def test_who_hangs_up_before_a_whole_answer_hangs_up_there(
    client: httpx2.Client, upstream: Raw, begun: bool
) -> None:
    upstream.endless, upstream.parts = True, [b'{"id": '] if begun else []
    with pytest.raises(httpx2.ReadTimeout):
        client.post("/v1/chat/completions", json=ASKED, timeout=0.5)
    for _ in range(100):
        if upstream.left:
            break
        time.sleep(0.05)
    assert upstream.left


def test_headers_and_query_go_on(client: httpx2.Client, upstream: Raw) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    client.post(
        "/v1/chat/completions?api-version=2", json=ASKED, headers={"OpenAI-Beta": "a=1", "traceparent": trace}
    )
    assert upstream.paths == ["/v1/chat/completions?api-version=2"]
    assert (upstream.given["openai-beta"], upstream.given["traceparent"]) == ("a=1", trace)
    assert "authorization" not in upstream.given  # the caller's key is this server's business
    assert not any(name.startswith("x-memkit") for name in upstream.given)


def test_models_pass_too(client: httpx2.Client, upstream: Raw) -> None:
    upstream.headers.append(("openai-version", "1"))
    got = client.get("/v1/models/meta%2Fbig")
    assert (got.content, got.headers["openai-version"]) == (ANSWER, "1")
    assert client.get("/v1/models").content == ANSWER
    assert upstream.paths == ["/v1/models/meta%2Fbig?", "/v1/models?"]
    assert client.get("/v1/models/%2e%2e/%2e%2e/admin").status_code == 404
    assert client.get("/v1/models/a%2F..%2F..%2Fadmin").status_code == 404
    assert len(upstream.paths) == 2
    upstream.status = 404
    assert client.get("/v1/models/gpt").status_code == 404


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(json_values, json_values, st.sampled_from(["mira", "nobody"]))
def test_any_body_passes(client: httpx2.Client, upstream: Raw, messages: Any, more: Any, user: str) -> None:
    upstream.bodies.clear()
    body = {"messages": messages, "more": more, "user": user}
    sent = json.dumps(body).encode(errors="replace")
    if "\\ud" in sent.decode():  # pairs are fine, and halves are told
        return
    assert client.post("/v1/chat/completions", content=sent).status_code == 200
    assert json.loads(upstream.bodies[0]) == json.loads(sent)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"", "the body is not JSON: look at character 0"),
        (b"{", "the body is not JSON: look at character 1"),
        (b"[]", "the request must be an object"),
        (b"\xff{}", "the body is not UTF-8 (byte 0)"),
        (
            b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
            "messages.0.content: holds half a character",
        ),
        (b'{"\\udfff": 1}', "the body: holds half a character"),
        (b"[" * 100_000, "the body is nested too deeply"),
    ],
)
def test_what_is_no_body(client: httpx2.Client, upstream: Raw, sent: bytes, said: str) -> None:
    got = client.post("/v1/chat/completions", content=sent)
    assert got.status_code == 400
    assert got.json()["error"]["message"].startswith(said)
    assert upstream.bodies == []
