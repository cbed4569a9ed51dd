"""Whatever is sent as JSON: one plain sentence and a status of the caller's, or the obvious meaning."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("openai")

import httpx2
import openai
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memkit.bench.http_server import LiveServer, remember, served
from memkit.engine.transformers.engine import TransformersEngine
from memkit.server.config import ServerConfig
from memkit.server.validation_messages import describe_errors
from memkit.testing import TEXT, TINY_LCC

QUESTION = "Where does Mira live?"
CHAT: dict[str, Any] = {"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": QUESTION}]}
HALF = "holds half a character (a lone surrogate)"
INSIDE = re.compile(r"pydantic|https?://|Input should|Value error|Traceback|\bstr\b|\bdict\b|list\[", re.I)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, engine: TransformersEngine) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("input")
    config = ServerConfig(folder / "bank", "tiny", **TINY_LCC, rate=10**6, compile=False)
    with served(config, engine) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: LiveServer) -> Iterator[httpx2.Client]:
    with server.client("acme", "mira") as made:
        yield made


@pytest.fixture(scope="module")
def memory_id(client: httpx2.Client) -> str:
    return remember(client, TEXT)


def message_of(answer: httpx2.Response, status: int = 400) -> str:
    assert answer.status_code == status, answer.text
    found = answer.json()["error"]
    assert found["request_id"] == answer.headers["x-request-id"]
    assert not INSIDE.search(found["message"]), found["message"]
    return str(found["message"])


# -- half a character ------------------------------------------------------------------------------
BODIES: dict[str, dict[str, Any]] = {
    "/memories": {"text": "a", "title": "t", "memory": None, "key": None, "messages": None},
    "/ask": {"question": "a", "history": [["a", "b"]], "within": "a", "gate": "auto"},
    "/recompile": {"user": "mira"},
    "/memories/ID/forget": {"matching": "a", "spans": []},
    "/memories/ID/rollback": {"version": 1},
    "/memories/ID/pin": {"pinned": True},
    "/v1/chat/completions": {**CHAT, "stop": ["a"], "user": "u", "stream_options": {"a": "b"}},
    "/v1/completions": {"model": "tiny", "prompt": "a", "user": "u", "suffix": "s", "stop": "a"},
    "/v1/embeddings": {"model": "lexical:2048", "input": ["a"], "user": "u", "input_type": "query"},
}


def test_every_route_with_a_body_is_here(server: LiveServer) -> None:
    paths = httpx2.get(f"{server.url}/openapi.json").json()["paths"]
    takes = {path for path, methods in paths.items() for how in methods.values() if "requestBody" in how}
    assert {path.replace("{memory_id}", "ID") for path in takes} == set(BODIES)


def places(value: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*place, key))


def replaced(value: Any, place: tuple[str | int, ...], new: Any) -> Any:
    if not place:
        return new
    copy: Any = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = replaced(value[place[0]], place[1:], new)
    return copy


@pytest.mark.parametrize("path", BODIES)
def test_half_a_character_anywhere_is_told(client: httpx2.Client, memory_id: str, path: str) -> None:
    body = BODIES[path]
    for place in places(body):
        odd = ["x\ud800", {"a": "\udfff"}, {"\ud83d": 1}]
        for value in odd if place else [{**body, "more": "\ud800"}, {**body, "\ud800": 1}]:
            sent = json.dumps(replaced(body, place, value))
            answer = client.post(
                path.replace("ID", memory_id), content=sent, headers={"Content-Type": "application/json"}
            )
            assert HALF in message_of(answer)
    stream = json.dumps({**CHAT, "stream": True, "messages": [{"role": "user", "content": "\ud800"}]})
    answer = client.post("/v1/chat/completions", content=stream, headers={"Content-Type": "application/json"})
    assert message_of(answer) == f"messages.0.content: {HALF}"


def test_half_a_character_written_as_bytes(client: httpx2.Client) -> None:
    for data in (b'{"question": "\xed\xa0\x80"}', '{"question": "a"}'.encode("utf-16"), b"\xff"):
        answer = client.post("/ask", content=data, headers={"Content-Type": "application/json"})
        assert message_of(answer).startswith("the body is not UTF-8")
    pair = client.post(
        "/ask",
        content=b'{"question": "\\ud83d\\ude00?", "max_tokens": 1}',
        headers={"Content-Type": "application/json"},
    )
    assert pair.json()["trace"]["question"] == "😀?"


def test_a_nul_is_refused_where_it_cannot_be_stored(
    server: LiveServer, client: httpx2.Client, memory_id: str
) -> None:
    nul = "a\0b"
    for body in (
        {"text": nul},
        {"text": "a", "title": nul},
        {"text": "a", "memory": nul},
        {"text": "a", "memory": "m", "key": nul},
        {"messages": [{"role": nul, "content": "a"}]},
        {"messages": [{"role": "user", "content": nul}]},
    ):
        message_of(client.post("/memories", json=body))
    assert client.post("/recompile", json={"user": nul}).status_code == 404  # a user like any, who is unknown
    with server.client("acme") as tenant:
        assert tenant.post("/v1/chat/completions", json={**CHAT, "user": nul}).status_code == 200
    assert client.post("/ask", json={"question": nul, "max_tokens": 1}).status_code == 200
    message_of(client.post("/ask", json={"question": "a", "within": nul}), 404)


# -- sentences -------------------------------------------------------------------------------------
LONG = "x" * 100_001
SAID: list[tuple[str, Any, str]] = [
    ("/memories", {}, "give a text or messages, and not both"),
    ("/memories", {"text": 1}, "text: must be a text"),
    ("/memories", {"text": ""}, "text: is empty"),
    ("/memories", {"text": "a", "tetx": 1}, "tetx: is not known here: leave it out"),
    ("/memories", {"text": "a", "title": "t" * 513}, "title: has 513 characters, the most is 512"),
    (
        "/memories",
        {"text": "a", "memory": "m", "when": "soon"},
        "when: must be a time such as 2026-05-02T08:00:00Z",
    ),
    (
        "/memories",
        {"text": "a", "memory": "m", "when": 5},
        "when: must be a time such as 2026-05-02T08:00:00Z",
    ),
    ("/memories", {"messages": [{"role": "user"}]}, "messages.0.content: is missing"),
    ("/memories", {"messages": [{}] * 1001}, "messages: has 1,001 items, the most is 1,000"),
    ("/memories", {"messages": {"a": 1}}, "messages: must be a list"),
    ("/memories", {"text": "a", "compile": "maybe"}, "compile: must be true or false"),
    ("/memories", [], "the request must be an object"),
    ("/ask", {}, "question: is missing"),
    ("/ask", {"question": LONG}, "question: has 100,001 characters, the most is 100,000"),
    ("/ask", {"question": "a", "seed": 2**70}, "seed: must be less than 9,223,372,036,854,775,808"),
    ("/ask", {"question": "a", "seed": -1}, "seed: must be at least 0"),
    ("/ask", {"question": "a", "seed": 1.5}, "seed: must be a whole number"),
    ("/ask", {"question": "a", "temperature": "hot"}, "temperature: must be a number"),
    ("/ask", {"question": "a", "gate": "x"}, "unknown gate 'x'; there are: auto, entropy, learned, rule"),
    ("/ask", {"question": "a", "history": [["a"]]}, "history.0.1: is missing"),
    (
        "/ask",
        {"question": "a", "history": [{"role": "user", "content": 5}]},
        "history.0.content: must be a list or a text",
    ),
    ("/ask", {"question": "a", "history": ["a"]}, "history.0: must be a list or an object"),
    (
        "/ask",
        {"question": "a", "history": [{"role": "critic", "content": "4"}]},
        "a history has messages of user, assistant and system, not of 'critic'",
    ),
    ("/memories/ID/forget", {}, "give spans, or a text that matches, and not both"),
    ("/memories/ID/rollback", {"version": 0}, "version: must be at least 1"),
    ("/recompile", {"budget": -1}, "budget: must be more than 0"),
    ("/v1/chat/completions", {**CHAT, "stop": ["a"] * 5}, "stop: at most 4 texts of 1 to 256 characters"),
    ("/v1/chat/completions", {**CHAT, "messages": []}, "messages: is empty"),
    (
        "/v1/chat/completions",
        {**CHAT, "messages": [{"role": "critic", "content": "a"}]},
        "messages.0.role: must be 'system', 'developer', 'user', 'assistant', 'tool' or 'function'",
    ),
    (
        "/v1/chat/completions",
        {**CHAT, "messages": [{"role": "user", "content": 5}]},
        "messages.0.content: must be a list or a text",
    ),
    (
        "/v1/chat/completions",
        {**CHAT, "messages": [{"role": "user", "content": [{"type": "text", "text": LONG}]}]},
        "messages.0.content.0.text: has 100,001 characters, the most is 100,000",
    ),
    (
        "/v1/chat/completions",
        {**CHAT, "messages": [{"role": "user", "content": [{"text": "a"}]}]},
        "messages.0.content.0.type: is missing",
    ),
    ("/v1/chat/completions", {**CHAT, "seed": 2**70}, "seed: must be less than 9,223,372,036,854,775,808"),
    ("/v1/completions", {"model": "tiny"}, "prompt: is missing"),
    ("/v1/completions", {"model": "tiny", "prompt": ["a", "b"]}, "prompt: one prompt is answered at a time"),
    (
        "/v1/completions",
        {"model": "tiny", "prompt": LONG},
        "prompt: has 100,001 characters, the most is 100,000",
    ),
    ("/v1/embeddings", {"model": "lexical:2048", "input": {"a": 1}}, "input: must be a list or a text"),
    (
        "/v1/embeddings",
        {"model": "lexical:2048", "input": LONG},
        "text 0 has 100,001 characters, the most is 100,000",
    ),
]


@pytest.mark.parametrize(("path", "body", "said"), SAID)
def test_what_is_wrong_is_said(
    client: httpx2.Client, memory_id: str, path: str, body: Any, said: str
) -> None:
    assert message_of(client.post(path.replace("ID", memory_id), json=body)) == said


def test_what_is_no_body_is_said(client: httpx2.Client) -> None:
    kind = {"Content-Type": "application/json"}
    assert (
        message_of(client.post("/ask", content=b'{"question"', headers=kind))
        == "the body is not JSON: look at character 11"
    )
    assert (
        message_of(client.post("/ask", content=b"", headers=kind))
        == "the request has no body: send a JSON object"
    )
    assert (
        message_of(client.post("/ask", content=b"null", headers=kind))
        == "the request has no body: send a JSON object"
    )
    assert (
        message_of(client.post("/ask", content=b"[" * 10**5, headers=kind)) == "the body is nested too deeply"
    )
    assert message_of(client.post("/ask", content=b"question=a")).startswith("send JSON, and say so")
    assert message_of(client.get("/memories/" + "0" * 16 + "/diff")) == "older: is missing"
    assert message_of(client.get("/recompile/plan?retry=maybe")) == "retry: must be true or false"


@pytest.fixture(scope="module")
def fuzzed(server: LiveServer) -> Iterator[tuple[httpx2.Client, str]]:
    """A client of its own, with a memory that it may lose."""
    with server.client("acme", "fuzz") as made:
        yield made, remember(made, TEXT)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_value_breaks_a_route(fuzzed: tuple[httpx2.Client, str], data: st.DataObject) -> None:
    client, memory_id = fuzzed
    path = data.draw(st.sampled_from(sorted(BODIES)))
    body = BODIES[path]
    place = data.draw(st.sampled_from(sorted(places(body), key=repr)))
    sent = json.dumps(replaced(body, place, data.draw(json_values)))
    answer = client.post(
        path.replace("ID", memory_id), content=sent, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code < 500, (sent, answer.text)
    if answer.status_code >= 400:
        assert not INSIDE.search(json.dumps(answer.json()["error"]["message"])) or "https" in sent


def test_findings_of_no_kind_that_is_known() -> None:
    assert describe_errors([{"type": "new", "loc": ("a",), "input": 1}], {"a": 1}) == ("a", "a: is not valid")
    assert describe_errors([], None) == (None, "the request is not valid")


# -- history ---------------------------------------------------------------------------------------
def test_a_history_is_pairs_or_messages(server: LiveServer, client: httpx2.Client, memory_id: str) -> None:
    server.settled()  # a compilation that ends meanwhile would change the route
    pairs = [["Who is Mira?", "A person."], ["And Jalo?", ""]]
    messages = [
        {"role": "user", "content": "Who is Mira?"},
        {"role": "assistant", "content": [{"type": "text", "text": "A person."}]},
        {"role": "user", "content": "And Jalo?"},
    ]
    said = []
    for history in (pairs, messages, [pairs[0], messages[2]]):
        answer = client.post("/ask", json={"question": QUESTION, "history": history, "max_tokens": 3})
        assert answer.status_code == 200, answer.text
        trace = answer.json()["trace"]
        said.append((answer.json()["text"], trace["prompt_tokens"], trace["memory_id"]))
    assert said[0] == said[1] == said[2]
    assert said[0][2] == memory_id
    none = client.post("/ask", json={"question": QUESTION, "max_tokens": 3}).json()["trace"]
    assert said[0][1] > none["prompt_tokens"]
    system = [{"role": "system", "content": "Be brief."}]
    told_so = client.post("/ask", json={"question": QUESTION, "history": system, "max_tokens": 3})
    assert told_so.json()["trace"]["prompt_tokens"] > none["prompt_tokens"]


def test_times_that_are_taken(client: httpx2.Client) -> None:
    given = {
        "2026-05-02T08:00:00.123456+09:00": "2026-05-01T23:00:00.123",
        "2026-05-02 08:00": "2026-05-02T08:00:00",
        "2026-05-02": "2026-05-02T00:00:00",
    }
    for number, (when, stored) in enumerate(given.items()):
        said = client.post("/memories", json={"text": f"fact {number}", "memory": "times", "when": when})
        assert said.status_code == 201, said.text
        source = client.get(f"/memories/{said.json()['memory']['id']}/source").json()
        assert any(entry["said"].startswith(stored) for entry in source["entries"]), source["entries"]


# -- what goes wrong inside ------------------------------------------------------------------------
def test_a_value_error_inside_is_not_the_callers(
    server: LiveServer, client: httpx2.Client, memory_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("operands could not be broadcast: /srv/bank hunter2")

    monkeypatch.setattr(server.services.root.router.embedder, "question", broken)
    answers = [
        client.post("/ask", json={"question": QUESTION}),
        client.post("/v1/chat/completions", json=CHAT),
        client.post("/v1/chat/completions", json={**CHAT, "stream": True}),
        client.post("/v1/embeddings", json={"model": "lexical:2048", "input": "a", "input_type": "query"}),
    ]
    for answer in answers:
        assert "hunter2" not in answer.text
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")


# -- pages of other hosts --------------------------------------------------------------------------
def test_a_page_may_send_what_openais_client_sends(
    server: LiveServer, tmp_path_factory: pytest.TempPathFactory, engine: TransformersEngine
) -> None:
    stainless = "arch lang os package-version retry-count runtime runtime-version timeout helper-method"
    plain = "authorization content-type openai-organization openai-project user-agent x-memkit-user"
    sent = ",".join([*plain.split(), *(f"x-stainless-{each}" for each in stainless.split())])
    asked = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": sent,
    }
    config = ServerConfig(
        tmp_path_factory.mktemp("cors") / "bank",
        "tiny",
        origins=("https://app.example",),
        rate=2,
        max_body=1000,
    )
    with served(config, engine) as running:
        answer = httpx2.options(f"{running.url}/v1/chat/completions", headers=asked)
        assert answer.status_code == 200
        allowed = {each.strip().lower() for each in answer.headers["access-control-allow-headers"].split(",")}
        assert set(sent.split(",")) <= allowed
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        other = httpx2.options(
            f"{running.url}/v1/chat/completions", headers={**asked, "Origin": "https://evil.example"}
        )
        assert "access-control-allow-origin" not in other.headers
        with running.client("acme", Origin="https://app.example") as client:
            for status, size in ((413, 2000), (201, 1), (201, 2), (429, 3)):
                answer = client.post("/memories", json={"text": "x" * size, "compile": False})
                assert answer.status_code == status  # a page can read refusals, too
                assert answer.headers["access-control-allow-origin"] == "https://app.example"
                assert answer.headers["access-control-expose-headers"] == "*"


def test_openais_client_is_answered(server: LiveServer, memory_id: str) -> None:
    long: Any = [{"role": "user", "content": [{"type": "text", "text": LONG}]}]
    with (
        openai.OpenAI(api_key=server.key("acme"), base_url=f"{server.url}/v1", max_retries=0) as client,
        pytest.raises(openai.BadRequestError, match="has 100,001 characters, the most is 100,000"),
    ):
        client.chat.completions.create(model="tiny", messages=long)
