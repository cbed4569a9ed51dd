"""In front of another OpenAI-compatible server: memories go into its prompt as text."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("openai")

import openai
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from memkit.bench.http_server import LiveServer, remember, running, served
from memkit.server.config import ServerConfig
from memkit.testing import TEXT

ASKED: dict[str, Any] = {"model": "big", "messages": [{"role": "user", "content": "Where does Mira live?"}]}


@dataclass
class Other:
    """What another server was sent; it answers with a fixed text, or with ``status``."""

    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    status: int = 200
    left: bool = False  # whether somebody hung up

    def app(self) -> FastAPI:
        app = FastAPI()
        frame = {"id": "chatcmpl-1", "created": 1, "model": "big"}

        @app.get("/v1/models")
        def models() -> dict[str, Any]:
            return {
                "object": "list",
                "data": [{"id": "big", "object": "model", "created": 1, "owned_by": "x"}],
            }

        @app.post("/v1/chat/completions", response_model=None)
        async def chat(request: Request) -> Response:
            body = await request.json()
            self.bodies.append(body)
            self.keys.add(request.headers.get("authorization", ""))
            if self.status != 200:
                return JSONResponse({"error": {"message": "no", "type": "x"}}, self.status)
            if body.get("stream"):
                return StreamingResponse(
                    self._events(frame, "endless" in body), media_type="text/event-stream"
                )
            message = {"role": "assistant", "content": "Keldor"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return JSONResponse({**frame, "object": "chat.completion", "choices": [choice]})

        return app

    async def _events(self, frame: dict[str, Any], endless: bool) -> AsyncIterator[str]:
        chunk = {**frame, "object": "chat.completion.chunk"}
        try:
            for piece in itertools.cycle(["Kel", "dor"]) if endless else ("Kel", "dor"):
                choice = {"index": 0, "delta": {"content": piece}, "finish_reason": None}
                yield f"data: {json.dumps({**chunk, 'choices': [choice]})}\n\n"
                await asyncio.sleep(0.01)
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.left = True
            raise


@pytest.fixture
def other() -> Other:
    return Other()


@pytest.fixture
def server(tmp_path: Path, other: Other) -> Iterator[LiveServer]:
    with running(other.app()) as url:
        config = ServerConfig(tmp_path / "bank", upstream=f"{url}/v1", upstream_key="theirs")
        with served(config) as made:
            with made.client("acme", "mira") as mira:
                remember(mira, TEXT)
            yield made


@pytest.fixture
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=server.key("acme"), base_url=f"{server.url}/v1", max_retries=0) as made:
        yield made


def test_a_memory_goes_into_the_prompt_as_text(
    client: openai.OpenAI, other: Other, server: LiveServer
) -> None:
    made = client.chat.completions.create(**ASKED, user="mira", temperature=0.5)
    assert made.choices[0].message.content == "Keldor"
    assert (made.model_extra or {})["memkit"]["route"] == "text"
    sent = other.bodies[-1]
    assert "Mira lives in Keldor" in sent["messages"][0]["content"]
    assert (sent["messages"][0]["role"], sent["messages"][1:]) == ("system", ASKED["messages"])
    assert (sent["temperature"], "stream" in sent) == (0.5, False)
    assert other.keys == {"Bearer theirs"}
    assert server.services.root.context.engines.loaded is None  # no model was loaded


def test_what_is_no_memorys_business_is_passed_on(client: openai.OpenAI, other: Other) -> None:
    tools: Any = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    messages = [{"role": "system", "content": "Be brief."}, *ASKED["messages"]]
    client.chat.completions.create(**{**ASKED, "messages": messages}, user="mira", tools=tools, n=2)
    sent = other.bodies[-1]
    assert (sent["tools"], sent["n"]) == (tools, 2)
    assert sent["messages"][0]["content"].startswith("Be brief.\n\n")
    made = client.chat.completions.create(**ASKED, user="jalo")
    assert other.bodies[-1]["messages"] == ASKED["messages"]
    assert (made.model_extra or {})["memkit"]["route"] == "none"


def test_a_stream_is_passed_on(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(**ASKED, user="mira", stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Keldor"
    assert (chunks[0].model_extra or {})["memkit"]["route"] == "text"


def test_who_hangs_up_here_hangs_up_there(server: LiveServer, other: Other) -> None:
    body = {**ASKED, "stream": True, "endless": True}
    with server.client("acme") as client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
        next(answer.iter_lines())
    for _ in range(100):
        if other.left:
            break
        time.sleep(0.05)
    assert other.left


def test_what_is_remembered_stays_on_its_text(server: LiveServer) -> None:
    with server.client("acme") as client:
        assert client.post("/memories", json={"text": "Jalo works at Brimtek."}).json()["job"] is None


def test_models_are_the_upstreams(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["big"]


@pytest.mark.parametrize(("status", "told"), [(400, 400), (429, 429), (500, 500), (401, 502)])
def test_refusals(client: openai.OpenAI, other: Other, status: int, told: int) -> None:
    other.status = status
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(**ASKED)
    assert caught.value.status_code == told
    assert ("MEMKIT_UPSTREAM_KEY" in str(caught.value)) == (status == 401)


def test_a_tool_loop_keeps_what_is_known(client: openai.OpenAI, other: Other) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    for after in (
        [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "It rains."},
        ],
        [{"role": "user", "content": [image]}],
    ):
        messages: Any = [*ASKED["messages"], *after]
        made = client.chat.completions.create(model="big", messages=messages, user="mira")
        assert (made.model_extra or {})["memkit"]["route"] == "text"
        assert "Mira lives in Keldor" in other.bodies[-1]["messages"][0]["content"]


def test_an_upstream_that_is_not_there(tmp_path: Path) -> None:
    config = ServerConfig(tmp_path / "bank", upstream="http://127.0.0.1:1/v1")
    with served(config) as made, made.client("acme") as client:
        answer = client.post("/v1/chat/completions", json=ASKED)
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "upstream_unavailable")
        assert client.get("/v1/models").status_code == 502
        assert client.post("/ask", json={"question": "a"}).status_code == 409
        memory_id = remember(client, TEXT)
        assert client.post(f"/memories/{memory_id}/compile").status_code == 409
