"""The HTTP server and MCP over a real SGLang server: answers come from it, with each tenant's artifact."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx2")
pytest.importorskip("mcp")

import anyio
import httpx2
from mcp import Client
from sglang_kit import Served, serving

from memkit.bench.http_server import LiveServer, remember, served
from memkit.config import Config
from memkit.engine.factory import create_sglang_engine
from memkit.engine.sglang.engine import SGLangEngine
from memkit.engine.sglang.plugin.server_args import ServerFlags
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import EngineError
from memkit.memory import Memory
from memkit.models.loading import LoadedModel
from memkit.server.config import ServerConfig
from memkit.server.dependencies import Services
from memkit.server.mcp import LocalMemory, create_mcp
from memkit.testing import TEXT, TINY_LCC

pytestmark = [pytest.mark.sglang, pytest.mark.slow]
OTHER = "Jalo works at Brimtek. Jalo lives in Veldin, and his cat is called Oru."
QUESTIONS = {"acme": "Where does Mira live?", "globex": "Where does Jalo live?"}
TEXTS = {"acme": TEXT, "globex": OTHER}


@pytest.fixture(scope="module")
def sglang_server(
    tiny: LoadedModel, environment: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """The tiny model on one SGLang server of its own: a test stops it."""
    with serving(tmp_path_factory.mktemp("sglang"), tiny, ServerFlags()) as made:
        yield made


@pytest.fixture(scope="module")
def config(sglang_server: Served, tiny: LoadedModel) -> ServerConfig:
    urls = tuple(server.url for server in sglang_server.servers)
    return ServerConfig(
        sglang_server.shelf.home,
        tiny.name,
        engine="sglang",
        sglang_urls=urls,
        **TINY_LCC,
        rate=10**6,
    )


@pytest.fixture(scope="module")
def server(config: ServerConfig) -> Iterator[LiveServer]:
    with served(config) as running:
        yield running


@pytest.fixture(scope="module")
def memories(server: LiveServer) -> dict[str, str]:
    """The id of each tenant's memory, remembered and compiled over HTTP."""
    found = dict[str, str]()
    for tenant, text in TEXTS.items():
        with server.client(tenant, "one") as client:
            found[tenant] = remember(client, text)
            assert client.post(f"/memories/{found[tenant]}/compile").status_code == 202
            server.settled()
            assert client.get(f"/memories/{found[tenant]}").json()["version"] == 1
    return found


def body(config: ServerConfig, tenant: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": QUESTIONS[tenant]}]
    return {"model": config.model_id, "max_tokens": 6, "messages": messages, **more}


def streamed(client: httpx2.Client, asked: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The text of a streamed answer, and what it says of its memory."""
    text, used = "", dict[str, Any]()
    with client.stream("POST", "/v1/chat/completions", json={**asked, "stream": True}) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                text += event["choices"][0].get("delta", {}).get("content") or ""
                used = event.get("memkit", used)
    return text, used


@pytest.mark.parametrize("tenant", TEXTS)
def test_answers_come_from_sglang_with_the_artifact(
    server: LiveServer, config: ServerConfig, memories: dict[str, str], tenant: str, tiny: LoadedModel
) -> None:
    assert isinstance(server.services.root.engine, SGLangEngine)
    with server.client(tenant, "one", **{"X-Memkit-Gate": "rule"}) as client:
        whole = client.post("/v1/chat/completions", json=body(config, tenant))
        text, used = streamed(client, body(config, tenant))
        asked = client.post("/ask", json={"question": QUESTIONS[tenant], "max_tokens": 6, "gate": "rule"})
    assert (whole.status_code, asked.status_code) == (200, 200), (whole.text, asked.text)
    for told in (whole.json()["memkit"], used):
        assert (told["route"], told["memory_id"], told["version"]) == ("latent", memories[tenant], 1)
    assert asked.json()["route"] == "latent"
    assert asked.json()["trace"]["memory_id"] == memories[tenant]
    assert whole.headers["x-memkit-route"] == "latent"
    answers = {whole.json()["choices"][0]["message"]["content"], text, asked.json()["text"]}
    here = Config(config.home, tiny.name, gate="rule")
    engine = TransformersEngine(tiny)
    with Memory(config=here, engine=engine, tenant=tenant, user="one") as memory:  # the same artifact
        assert answers == {memory.ask(QUESTIONS[tenant], max_tokens=6).text}


def test_a_tenant_has_no_part_in_anothers_artifact(
    server: LiveServer, config: ServerConfig, memories: dict[str, str]
) -> None:
    with server.client("acme", "one", **{"X-Memkit-Gate": "rule"}) as client:
        answer = client.post("/v1/chat/completions", json=body(config, "globex")).json()["memkit"]
        assert answer["memory_id"] != memories["globex"]
        named = {"X-Memkit-Memory": memories["globex"]}
        refused = client.post("/v1/chat/completions", json=body(config, "globex"), headers=named)
        assert refused.status_code == 404


def test_health_and_status_say_which_engine_answers(server: LiveServer, tiny: LoadedModel) -> None:
    assert httpx2.get(f"{server.url}/health").json()["engine"] == "sglang"
    with server.client() as client:
        status = client.get("/status").json()
    assert (status["engine"], status["engine_ready"]) == ("sglang", True)
    assert status["fingerprint"] == tiny.fingerprint


def test_mcp_answers_from_sglang(config: ServerConfig, memories: dict[str, str]) -> None:
    with Memory(config=config, gate="rule", tenant="acme", user="one") as memory:

        async def main() -> None:
            async with Client(create_mcp(LocalMemory(memory), None, config.engine)) as client:
                asked = await client.call_tool("ask", {"question": QUESTIONS["acme"], "max_tokens": 4})
                status = await client.call_tool("status", {})
                assert not asked.is_error, asked.content
                assert (asked.structured_content or {})["route"] == "latent"
                assert (status.structured_content or {})["engine"] == "sglang"

        anyio.run(main)
        assert isinstance(memory.engine, SGLangEngine)


def test_a_server_of_another_model_is_an_error_at_the_start(
    config: ServerConfig, other_model_folder: Path
) -> None:
    wrong = ServerConfig(
        config.home, str(other_model_folder), engine="sglang", sglang_urls=config.sglang_urls
    )
    services = Services(wrong)
    with pytest.raises(EngineError, match="serve the same model in the same dtype"):
        services.load()
    services.close()


def test_a_server_that_is_lost_leaves_the_text(
    server: LiveServer, sglang_server: Served, config: ServerConfig, memories: dict[str, str]
) -> None:
    """The last test: it stops the server."""
    with server.client("acme", "one", **{"X-Memkit-Gate": "rule"}) as client:
        asked = body(config, "acme", max_tokens=200, stream=True)
        with client.stream("POST", "/v1/chat/completions", json=asked) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: ")
            sglang_server.servers[0].kill()
            rest = [line for line in lines if line.startswith("data: ")]
        last = rest[-1].removeprefix("data: ")  # a short answer may have ended before
        assert last == "[DONE]" or json.loads(last)["error"]["code"] == "engine_unavailable"
        for path, sent in (
            ("/v1/chat/completions", body(config, "acme")),
            ("/ask", {"question": QUESTIONS["acme"]}),
        ):
            refused = client.post(path, json=sent)
            error = refused.json()["error"]
            assert (refused.status_code, error["code"]) == (503, "engine_unavailable"), refused.text
            assert "memories stay as they are" in error["message"]
            assert "127.0.0.1" not in refused.text
        status = client.get("/status").json()
        assert (status["engine"], status["engine_ready"], status["fingerprint"]) == ("sglang", False, None)
        assert client.get(f"/memories/{memories['acme']}/source").json()["text"] == TEXT
        assert client.post("/memories", json={"text": OTHER, "compile": False}).status_code == 201
    engine = create_sglang_engine(config)
    with pytest.raises(EngineError, match="does not answer"):
        engine.server(config.sglang_urls[0])
    engine.close()
