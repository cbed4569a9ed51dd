"""No path of the server goes out, whatever is wrong with an artifact."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("mcp")

import anyio
import httpx2
from mcp import Client

from memkit.bench.http_server import LiveServer, remember, served
from memkit.engine.transformers.engine import TransformersEngine
from memkit.memory import Memory
from memkit.models.loading import LoadedModel
from memkit.server.config import ServerConfig
from memkit.server.mcp import LocalMemory, create_mcp
from memkit.testing import TEXT, TINY_LCC

QUESTION = "Where does Mira live?"
CHAT: dict[str, Any] = {"model": "tiny", "max_tokens": 2, "messages": [{"role": "user", "content": QUESTION}]}
DAMAGES = ["cut", "altered", "gone", "another file"]


def damage(bank: Path, how: str) -> None:
    """Do that to every artifact in a bank."""
    files = [path for path in bank.rglob("*.mka") if path.is_file()]
    assert files
    for path in files:
        data = path.read_bytes()
        path.chmod(0o600)
        if how == "gone":
            path.unlink()
        elif how == "cut":
            path.write_bytes(data[: len(data) // 2])
        elif how == "altered":
            path.write_bytes(data[:-20] + bytes(b ^ 255 for b in data[-20:]))
        else:
            path.write_bytes(b"not an artifact")


@pytest.fixture
def server(tmp_path: Path, engine: TransformersEngine) -> Iterator[LiveServer]:
    config = ServerConfig(tmp_path / "bank", "tiny", **TINY_LCC, rate=10**6)
    with served(config, engine) as running:
        yield running


@pytest.mark.parametrize("how", DAMAGES)
def test_over_http(server: LiveServer, tmp_path: Path, how: str) -> None:
    with server.client("acme", "mira") as client:
        memory_id = remember(client, TEXT)
        client.post(f"/memories/{memory_id}/compile")
        server.settled()
        damage(tmp_path / "bank", how)
        asked = {"question": QUESTION, "max_tokens": 2, "gate": "rule"}
        answers: list[httpx2.Response] = [
            client.post("/ask", json=asked),
            client.post("/v1/chat/completions", json=CHAT, headers={"X-Memkit-Gate": "rule"}),
            client.post("/v1/chat/completions", json={**CHAT, "stream": True}),
            client.get(f"/memories/{memory_id}"),
            client.get(f"/memories/{memory_id}/artifact"),
            client.get(f"/memories/{memory_id}/history"),
            client.get(f"/memories/{memory_id}/diff?older=1&newer=1"),
            client.get("/recompile/plan?always=true"),
            client.post(f"/memories/{memory_id}/compile"),
            client.post("/recompile", json={"always": True, "retry": True}),
        ]
        server.settled()
        answers += [client.get("/recompile"), client.get("/memories"), client.post("/ask", json=asked)]
    assert answers[0].json()["route"] == "text"  # what cannot be read is answered from its source
    assert answers[0].json()["trace"]["memory_id"] == memory_id
    for answer in answers:
        assert answer.status_code < 500, answer.text
        for told in (answer.text, str(answer.headers)):
            assert str(tmp_path) not in told, (answer.url, told)
            assert ".mka" not in told, (answer.url, told)


def test_a_checkpoint_that_is_gone(
    tmp_path: Path, tiny: LoadedModel, checkpoint_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a compressor's embeddings are read with lies in a folder of the server, too."""
    store, options = tmp_path / "checkpoints", {"form": "embeds"}
    shutil.copytree(checkpoint_store, store)
    monkeypatch.setenv("MEMKIT_CHECKPOINTS", str(store))
    config = ServerConfig(tmp_path / "bank", "tiny", compiler="meanpool", options=options, rate=10**6)
    with served(config, TransformersEngine(tiny)) as running, running.client("acme", "mira") as client:
        memory_id = remember(client, TEXT)
        client.post(f"/memories/{memory_id}/compile")
        running.settled()
        assert client.get(f"/memories/{memory_id}").json()["version"] == 1
        headers = dict(client.headers)
    shutil.rmtree(store)
    with served(config, TransformersEngine(tiny)) as running:
        asked = {"question": QUESTION, "max_tokens": 2, "gate": "rule"}
        more = {"text": "Jalo works at Brimtek.", "compile": True}
        with httpx2.Client(base_url=running.url, headers=headers, timeout=60) as client:
            answers = [
                client.post("/ask", json=asked),
                client.get("/recompile/plan?always=true"),
                client.post("/memories", json=more),
                client.post("/recompile", json={"always": True}),
            ]
            running.settled()
            answers += [client.get("/recompile"), client.get("/memories")]
    assert answers[0].json()["route"] in ("text", "latent")
    for answer in answers:
        assert answer.status_code < 500, answer.text
        assert str(tmp_path) not in answer.text, (answer.url, answer.text)


@pytest.mark.parametrize("how", DAMAGES)
def test_over_mcp(tmp_path: Path, engine: TransformersEngine, how: str) -> None:
    with Memory(tmp_path / "bank", user="mira", engine=engine, **TINY_LCC, gate="rule") as memory:
        memory_id = memory.remember(TEXT, wait=True).id
        damage(tmp_path / "bank", how)

        async def main() -> None:
            async with Client(create_mcp(LocalMemory(memory), None)) as client:
                calls: list[tuple[str, dict[str, Any]]] = [
                    ("ask", {"question": QUESTION, "max_tokens": 2}),
                    ("explain", {"question": QUESTION}),
                    ("list", {}),
                    ("status", {}),
                    ("forget", {"memory_id": memory_id}),
                ]
                for tool, arguments in calls:
                    done = await client.call_tool(tool, arguments)
                    assert not done.is_error, done.content
                    assert str(tmp_path) not in str(done)
                    assert ".mka" not in str(done)

        anyio.run(main)
