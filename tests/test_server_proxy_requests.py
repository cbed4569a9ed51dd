"""With an upstream the server is transparent: what is asked goes on as it came."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("openai")

import httpx2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proxy_kit import ANSWER, ASKED, QUESTION, Raw, post

from memkit.server.config import ServerConfig
from memkit.server.passing import with_field
from memkit.server.testing import Served, remember, running, served
from memkit.server.upstream import framed, latest
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
    assert (
        latest([QUESTION, {"role": "user", "content": [{"text": "a"}, {"type": "image"}, "b", 1]}]) == "a\nb"
    )
    assert latest([QUESTION, {"role": "assistant", "content": "x"}]) == QUESTION["content"]
    odd: tuple[Any, ...] = (None, 1, "x", {}, [], [1, None], [{"role": "user"}])
    for each in (*odd, [{"role": "user", "content": 5}]):
        assert latest(each) == ""


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


def test_a_field_is_added_to_objects_only() -> None:
    assert with_field(b'{"a": 1.50}\n', "b", None) == b'{"a": 1.50,"b": null}\n'
    assert with_field(b" {} ", "b", 1) == b' {"b": 1} '
    for odd in (b"", b"1", b"[{}]", b"{", b'"}"', '{"a": 1}'.encode("utf-16")):
        assert with_field(odd, "b", 1) == odd


def test_an_upstream_with_no_home(tmp_path: Path) -> None:
    config = ServerConfig(tmp_path / "bank", upstream="http://127.0.0.1:1/v1")
    with served(config) as made, made.client("acme") as client:
        assert client.get("/v1/models").status_code == 502
