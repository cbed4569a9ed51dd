"""The OpenAI-compatible routes, asked by OpenAI's own client."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("openai")

import httpx2
import openai

from memkit.bench.http_server import LiveServer, remember, served
from memkit.engine.transformers.engine import TransformersEngine
from memkit.server.config import ServerConfig
from memkit.testing import TEXT, TINY_LCC
from memkit.text.stop_sequences import StopSequences

MESSAGES: Any = [{"role": "user", "content": "Where does Mira live?"}]
ASKED: dict[str, Any] = {"model": "tiny", "messages": MESSAGES, "max_tokens": 6}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, engine: TransformersEngine) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("server")
    with served(ServerConfig(folder / "bank", "tiny", **TINY_LCC, rate=100_000), engine) as running:
        with running.client("acme", "mira") as mira:
            remember(mira, TEXT)
        yield running


@pytest.fixture
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=server.key("acme"), base_url=f"{server.url}/v1", max_retries=0) as made:
        yield made


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny", "lexical:2048"]
    for name in ("tiny", "lexical:2048"):
        assert client.models.retrieve(name).owned_by == "memkit"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_an_answer(client: openai.OpenAI, server: LiveServer) -> None:
    raw = client.chat.completions.with_raw_response.create(**ASKED, user="mira")
    made = raw.parse()
    assert made.object == "chat.completion"
    assert made.choices[0].message.role == "assistant"
    assert made.choices[0].finish_reason == "length"
    assert made.usage is not None
    assert (made.usage.completion_tokens, made.usage.total_tokens) == (6, made.usage.prompt_tokens + 6)
    used = (made.model_extra or {})["memkit"]
    assert (used["user"], used["route"], used["ignored"]) == ("mira", "text", [])
    assert raw.headers["x-memkit-route"] == "text"
    assert raw.headers["x-memkit-memory"] == used["memory_id"]
    other = client.chat.completions.create(**ASKED, user="jalo")
    assert (other.model_extra or {})["memkit"]["route"] == "none"
    header = client.chat.completions.create(**ASKED, user="jalo", extra_headers={"X-Memkit-User": "mira"})
    assert (header.model_extra or {})["memkit"]["user"] == "mira"


def test_a_stream_says_the_same(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**ASKED, user="mira")
    chunks = list(
        client.chat.completions.create(
            **ASKED, user="mira", stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].usage is not None
    assert chunks[-1].usage == whole.usage
    last = chunks[-2]
    assert last.choices[0].finish_reason == "length"
    assert (last.model_extra or {})["memkit"]["memory_id"] == (whole.model_extra or {})["memkit"]["memory_id"]


def test_completions(client: openai.OpenAI) -> None:
    made = client.completions.create(model="tiny", prompt="Where does Mira live?", max_tokens=4, user="mira")
    assert made.object == "text_completion"
    pieces = client.completions.create(
        model="tiny", prompt=["Where does Mira live?"], max_tokens=4, user="mira", stream=True
    )
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == made.choices[0].text


def test_a_conversation(client: openai.OpenAI) -> None:
    messages: Any = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": [{"type": "text", "text": "Where does Mira live?"}]},
    ]
    made = client.chat.completions.create(model="tiny", messages=messages, max_tokens=2, user="mira")
    bare = client.chat.completions.create(**{**ASKED, "max_tokens": 2}, user="mira")
    assert made.usage is not None
    assert bare.usage is not None
    assert made.usage.prompt_tokens > bare.usage.prompt_tokens
    assert (made.model_extra or {})["memkit"]["memory_id"] == (bare.model_extra or {})["memkit"]["memory_id"]


def test_what_changes_nothing_is_named(client: openai.OpenAI) -> None:
    made = client.chat.completions.create(
        **ASKED, top_p=1, tools=[], n=1, response_format={"type": "text"}, extra_body={"wishes": 3}
    )
    assert set((made.model_extra or {})["memkit"]["ignored"]) >= {"top_p", "wishes"}


def test_stop_texts(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**ASKED, user="mira").choices[0].message.content or ""
    stop = whole[2:5]
    made = client.chat.completions.create(**ASKED, user="mira", stop=[stop])
    assert (made.choices[0].message.content, made.choices[0].finish_reason) == (whole[:2], "stop")
    chunks = client.chat.completions.create(**ASKED, user="mira", stop=stop, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole[:2]


def test_what_may_begin_a_stop_waits() -> None:
    stopper = StopSequences(["END"])
    assert [stopper.take(piece) for piece in ("abE", "N", "x E", "ND", "more")] == ["ab", "", "ENx ", "", ""]
    assert stopper.stopped
    held = StopSequences(["END"])
    assert (held.take("abEN"), held.rest()) == ("ab", "EN")


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tools"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": [*MESSAGES, {"role": "tool", "content": "4", "tool_call_id": "1"}]}, "messages"),
        ({"messages": [*MESSAGES, {"role": "assistant", "content": "Lima"}]}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content",
        ),
        ({"stop": ["a"] * 5}, "stop"),
        ({"temperature": 3}, "temperature"),
        ({"user": "x" * 2000}, None),
        ({"extra_headers": {"X-Memkit-Gate": "open"}}, None),
    ],
)
def test_what_cannot_be_done_is_said(client: openai.OpenAI, more: dict[str, Any], param: str | None) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**{**ASKED, **more}, stream=stream)
        assert caught.value.param == param


def test_errors_are_those_that_the_client_knows(client: openai.OpenAI, server: LiveServer) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(**{**ASKED, "model": "gpt-9"})
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(**{**ASKED, "messages": [{"role": "user", "content": "a " * 2000}]})
    assert long.value.code == "context_length_exceeded"
    stranger = openai.OpenAI(api_key="mk_no_key", base_url=f"{server.url}/v1", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_one_memory_may_be_chosen(client: openai.OpenAI, server: LiveServer) -> None:
    with server.client("acme", "mira") as mira:
        bees = remember(mira, "Rolan keeps bees in Tarv.")
    chosen = {"X-Memkit-User": "mira", "X-Memkit-Memory": bees, "X-Memkit-Gate": "rule"}
    made = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Who keeps bees?"}],
        max_tokens=2,
        extra_headers=chosen,
    )
    assert (made.model_extra or {})["memkit"]["memory_id"] == bees
    with pytest.raises(openai.NotFoundError):  # another user of the tenant
        client.chat.completions.create(**ASKED, extra_headers={"X-Memkit-Memory": bees})


# -- callers that hang up ---------------------------------------------------------------------------
class Counted:
    """Tokens that an engine has made."""

    def __init__(self, engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch, pause: float) -> None:
        self.count, self.first = 0, threading.Event()
        made = engine._steps

        def slowly(*arguments: Any) -> Iterator[int]:
            for token in made(*arguments):
                self.count += 1
                self.first.set()
                time.sleep(pause)
                yield 5 if token == engine.base.chat.end else token

        monkeypatch.setattr(engine, "_steps", slowly)


@pytest.mark.parametrize("stream", [True, False])
def test_nothing_is_generated_for_one_who_hung_up(
    server: LiveServer, engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    counted = Counted(engine, monkeypatch, 0.02)
    body = {**ASKED, "max_tokens": 200, "stream": stream}
    with server.client("acme", "mira") as client:
        if stream:
            with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                next(answer.iter_lines())
        else:
            with pytest.raises(httpx2.ReadTimeout):
                client.post("/v1/chat/completions", json=body, timeout=0.5)
    assert counted.first.is_set()
    time.sleep(0.3)
    seen = counted.count
    time.sleep(0.5)
    assert counted.count == seen < 100
    assert not any(entry.uses for entry in server.services.root.local._attached._entries.values())


def test_an_answer_that_takes_too_long(
    tmp_path_factory: pytest.TempPathFactory, engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = ServerConfig(tmp_path_factory.mktemp("s") / "bank", "tiny", answer_timeout=0.3, answers=1)
    Counted(engine, monkeypatch, 0.05)
    with served(config, engine) as running, running.client("acme") as client:
        answer = client.post("/v1/chat/completions", json={**ASKED, "max_tokens": 100})
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
        with client.stream(
            "POST", "/v1/chat/completions", json={**ASKED, "max_tokens": 100, "stream": True}
        ) as s:
            lines = [line for line in s.iter_lines() if line]
        assert '"timeout"' in lines[-1]
