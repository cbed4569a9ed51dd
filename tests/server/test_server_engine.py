"""Which engine answers for a server, and what happens where it cannot: no model but the tiny one."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx2")

import httpx2

from memkit.bench.http_server import remember, served
from memkit.config import Config
from memkit.engine.sglang.plugin.header import make_secret
from memkit.engine.sglang.workers import SGLangConfig
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ConfigError, EngineError
from memkit.models.loading import LoadedModel
from memkit.server.config import ServerConfig
from memkit.server.dependencies import Services
from memkit.server.engine import EngineMonitor
from memkit.testing import TEXT


@pytest.fixture
def nowhere() -> str:
    """A URL at which nothing answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def config(tmp_path: Path, tiny: LoadedModel, nowhere: str) -> ServerConfig:
    make_secret(tmp_path / "bank" / "sglang")
    return ServerConfig(
        tmp_path / "bank", tiny.name, engine="sglang", sglang_urls=(nowhere,), compile=False, rate=10**6
    )


def test_the_embedded_engine_answers_unless_told(tmp_path: Path, engine: TransformersEngine) -> None:
    with served(ServerConfig(tmp_path / "bank", "tiny"), engine) as server, server.client() as client:
        assert httpx2.get(f"{server.url}/health").json()["engine"] == "transformers"
        status = client.get("/status").json()
    assert (status["engine"], status["engine_ready"]) == ("transformers", True)
    assert status["window"] == engine.window


def test_an_upstream_is_named_as_the_engine(tmp_path: Path) -> None:
    config = ServerConfig(tmp_path / "bank", upstream="http://127.0.0.1:1/v1", engine="sglang")
    services = Services(config)
    assert services.engine_name == "upstream"
    services.close()


def test_a_server_starts_while_sglang_is_down_and_keeps_memories(config: ServerConfig, nowhere: str) -> None:
    with served(config) as server, server.client("acme", "mira") as client:
        assert httpx2.get(f"{server.url}/health").json()["engine"] == "sglang"
        status = client.get("/status").json()
        assert (status["engine"], status["engine_ready"], status["window"]) == ("sglang", False, None)
        memory_id = remember(client, TEXT)
        messages = [{"role": "user", "content": "Where does Mira live?"}]
        for path, body in (
            ("/ask", {"question": "Where does Mira live?"}),
            ("/v1/chat/completions", {"model": config.model_id, "messages": messages}),
            ("/v1/chat/completions", {"model": config.model_id, "messages": messages, "stream": True}),
        ):
            answer = client.post(path, json=body)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (503, "engine_unavailable")
            assert "memories stay as they are" in error["message"]
            assert nowhere not in answer.text
        assert client.get(f"/memories/{memory_id}/source").json()["text"] == TEXT


@dataclass(frozen=True)
class Model:
    """What a monitor asks of an engine."""

    fingerprint: str
    model: str = "tiny"
    window: int = 512
    config: SGLangConfig = field(default_factory=lambda: SGLangConfig(("http://a",)))

    def server(self, url: str) -> None:
        """It answers."""


def test_servers_of_another_model_than_the_one_that_compiles_are_refused() -> None:
    def monitor(fingerprint: str) -> EngineMonitor:
        sglang, local = Model(fingerprint), Model("a" * 64)
        return EngineMonitor(lambda: sglang, sglang, lambda: local)  # type: ignore[arg-type, return-value]

    assert monitor("a" * 64).info().window == 512
    with pytest.raises(EngineError, match="serve the same model in the same dtype"):
        monitor("b" * 64).info()
    assert monitor("b" * 64).available() is None


def test_what_is_missing_is_said_before_the_server_starts(
    config: ServerConfig, cli: Callable[..., Any], nowhere: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="MEMKIT_SGLANG_URLS"):
        Services(replace(config, sglang_urls=()))
    bare = tmp_path / "bank without a secret"
    done = cli("serve", "--engine", "sglang", "--url", nowhere, "--home", bare)
    assert (done.code, "memkit sglang-args" in done.err) == (2, True)
    assert cli("serve", "--engine", "fast").code == 2


def test_the_configuration_of_a_server_is_read_as_any(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MEMKIT_CONFIG", str(tmp_path / "memkit.toml"))
    (tmp_path / "memkit.toml").write_text(
        'engine = "sglang"\nsglang_urls = ["http://a", "http://b"]\nmetrics_token = "a token of the file"\n'
    )
    monkeypatch.setenv("MEMKIT_UPSTREAM_KEY", "very secret")
    config = ServerConfig.load(home=tmp_path, rate=7)
    assert (config.engine, config.sglang_urls, config.rate) == ("sglang", ("http://a", "http://b"), 7)
    assert (config.metrics_token, config.upstream_key) == ("a token of the file", "very secret")
    assert "very secret" not in repr(config)
    assert "token of" not in repr(config)
    with pytest.raises(ConfigError, match="unknown setting rates"):
        ServerConfig.load(rates=7)
    assert Config.load(home=tmp_path).engine == "sglang"
