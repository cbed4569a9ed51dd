"""The MCP server over streamable HTTP: keys, and the same guard as the server's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

pytest.importorskip("mcp")
pytest.importorskip("limits")

import anyio
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_kit import INSIDE, call, refused, whole_path

from memkit.bench.http_server import running
from memkit.engine.transformers.engine import TransformersEngine
from memkit.memory import Memory
from memkit.server.mcp_http import NO_MESSAGE, KeyedMemory, http_app
from memkit.testing import TINY_LCC

HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "status", "arguments": {}},
}
ACCEPT = {"Accept": "application/json, text/event-stream"}


@asynccontextmanager
async def session(url: str, **headers: str) -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client,
    ):
        yield client


@pytest.fixture
def root(home: Path, engine: TransformersEngine) -> Iterator[Memory]:
    with Memory(home, engine=engine, **TINY_LCC) as made:
        yield made


def test_over_http_a_key_says_whose_memories(root: Memory) -> None:
    acme, other = (f"Bearer {root.bank.keys.create(tenant)[1]}" for tenant in ("acme", "other"))

    async def main(url: str) -> None:
        async with session(url, Authorization=acme, **{"X-Memkit-User": "mira"}) as client:
            await whole_path(client)
            (left,) = (await call(client, "list"))["memories"]
            told = await call(client, "status")
            assert (told["tenant"], told["user"]) == ("acme", "mira")
        for headers in (
            {"Authorization": acme},
            {"Authorization": other, "X-Memkit-User": "mira"},
            {"Authorization": other, "X-Memkit-User": "acme%2Fmira"},
        ):
            async with session(url, **headers) as client:
                assert (await call(client, "list"))["memories"] == []
                await refused(client, "forget", memory_id=left["memory_id"])
                await refused(client, "ask", question="Who?", within=left["memory_id"])

    with running(http_app(KeyedMemory(root), None)) as url:
        anyio.run(main, url)
        for key in ({}, {"Authorization": "Bearer mk_0123456789abcdef_x"}, {"Authorization": acme[:-1]}):
            answer = httpx2.post(f"{url}/mcp", json={}, headers=key)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
            assert answer.json()["error"]["request_id"] == answer.headers["x-request-id"]
        odd = {"Authorization": acme, "X-Memkit-User": "a%ffb"}
        answer = httpx2.post(f"{url}/mcp", json={}, headers=odd)
        assert (answer.status_code, "UTF-8" in answer.json()["error"]["message"]) == (400, True)


def test_any_host_name_is_served_to_who_has_a_key(root: Memory) -> None:
    """As a reverse proxy passes it on: `proxy_set_header Host $host`."""
    key = {"Authorization": f"Bearer {root.bank.keys.create('acme')[1]}"}
    with running(http_app(KeyedMemory(root), None)) as url:
        for host in ("memory.example", "memory.example:8443", "[::1]:1", "127.0.0.1"):
            answer = httpx2.post(f"{url}/mcp", json=HELLO, headers={**key, **ACCEPT, "Host": host})
            assert answer.status_code == 200, answer.text
            assert httpx2.post(f"{url}/mcp", json=HELLO, headers={**ACCEPT, "Host": host}).status_code == 401

        async def main() -> None:
            async with session(url, **key, Host="memory.example") as client:
                assert (await call(client, "status"))["tenant"] == "acme"

        anyio.run(main)


def test_http_has_the_servers_guard(root: Memory) -> None:
    one, two = ({"Authorization": f"Bearer {root.bank.keys.create('acme')[1]}", **ACCEPT} for _ in range(2))
    with running(http_app(KeyedMemory(root), None, rate=3, max_body=2000)) as url:
        answers = [httpx2.post(f"{url}/mcp", json=HELLO, headers=one) for _ in range(4)]
        assert [each.status_code for each in answers] == [200, 200, 200, 429]
        assert [each.headers["x-ratelimit-remaining"] for each in answers] == ["2", "1", "0", "0"]
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert answers[-1].json()["error"]["code"] == "rate_limit_exceeded"
        assert answers[-1].headers["x-content-type-options"] == "nosniff"
        assert httpx2.post(f"{url}/mcp", json=HELLO, headers=two).status_code == 200  # another key
        for sent in (b"x" * 2001, iter([b"x" * 1500] * 3)):
            large = httpx2.post(
                f"{url}/mcp", content=sent, headers={**two, "Content-Type": "application/json"}
            )
            assert (large.status_code, large.json()["error"]["code"]) == (413, "body_too_large")


def test_half_a_character_does_not_break_it(root: Memory) -> None:
    key = {"Authorization": f"Bearer {root.bank.keys.create('acme')[1]}", **ACCEPT}
    calls = [
        ("remember", '{"text": "x\\ud800"}'),
        ("remember", '{"text": "x", "memory": "\\ud800"}'),
        ("ask", '{"question": "\\udfff?"}'),
        ("forget", '{"memory_id": "\\ud800"}'),
        ("list", '{"\\ud800": 1}'),
        ("\\ud800", "{}"),
    ]
    with running(http_app(KeyedMemory(root), None)) as url:
        for name, arguments in calls:
            params = f'{{"name": "{name}", "arguments": {arguments}}}'
            sent = f'{{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {params}}}'
            headers = {**key, "Content-Type": "application/json"}
            answer = httpx2.post(f"{url}/mcp", content=sent, headers=headers)
            assert answer.status_code in (200, 400), answer.text
            assert not INSIDE.search(answer.text), answer.text
            assert '"isError":true' in answer.text or '"error"' in answer.text, answer.text


def test_what_is_no_message_is_told_plainly(root: Memory) -> None:
    key = {"Authorization": f"Bearer {root.bank.keys.create('acme')[1]}", **ACCEPT}
    headers = {**key, "Content-Type": "application/json"}
    with running(http_app(KeyedMemory(root), None)) as url:
        for body in ("[]", "5", "{}", "null", '"x"'):
            answer = httpx2.post(f"{url}/mcp", content=body, headers=headers)
            assert (answer.status_code, answer.json()["error"]["message"]) == (400, NO_MESSAGE)
        answer = httpx2.post(f"{url}/mcp", content="{", headers=headers)
        assert (answer.status_code, INSIDE.search(answer.text)) == (400, None)


@pytest.mark.slow
def test_it_needs_no_more_than_its_extra(tmp_path: Path) -> None:
    """fastapi comes with the extra `server`, not with `mcp`."""
    script = "import sys; sys.modules['fastapi'] = None; import memkit.server.mcp_http, memkit.cli.mcp"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
