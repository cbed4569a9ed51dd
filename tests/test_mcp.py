"""The MCP server, asked by the SDK's own client: in memory, as a process, and over HTTP."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("mcp")
pytest.importorskip("fastapi")

import anyio
import httpx2
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from memkit.bank import Bank
from memkit.engine.transformers import TransformersEngine
from memkit.memory import Memory
from memkit.server.jobs import Jobs
from memkit.server.mcp import Gatekeeper, Keyed, Local, create_mcp
from memkit.server.testing import running
from memkit.testing import TEXT, TINY_OPTIONS

TOOLS = {"remember", "ask", "forget", "list", "explain", "status"}
Session = Callable[[Client], Awaitable[None]]


@pytest.fixture
def memory(home: Path, engine: TransformersEngine) -> Iterator[Memory]:
    with Memory(home, user="mira", engine=engine, options=TINY_OPTIONS) as made:
        yield made


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    done = await client.call_tool(tool, arguments)
    assert not done.is_error, done.content
    found: dict[str, Any] | None = done.structured_content
    assert found is not None
    return found


async def refused(client: Client, tool: str, **arguments: Any) -> str:
    done = await client.call_tool(tool, arguments)
    assert done.is_error
    return str(done.content[0].text)  # type: ignore[union-attr] # it is text


async def whole_path(client: Client) -> None:
    """Remember, ask, explain, forget."""
    assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
    made = await call(client, "remember", text=TEXT, title="people")
    again = await call(client, "remember", text=TEXT)
    assert again["memory_id"] == made["memory_id"]
    answer = await call(client, "ask", question="Where does Mira live?", max_tokens=4)
    assert (answer["memory_id"], answer["title"]) == (made["memory_id"], "people")
    why = await call(client, "explain", question="Where does Mira live?")
    assert why["candidates"][0]["memory_id"] == made["memory_id"]
    log = await call(client, "remember", text="I moved to Oslo.", memory="profile")
    assert log["entries"] == 1
    listed = await call(client, "list")
    assert len(listed["memories"]) == 2
    gone = await call(client, "forget", memory_id=made["memory_id"], matching="Mira lives in Keldor.")
    assert gone["left"]
    await call(client, "forget", memory_id=gone["left"])
    told = await call(client, "status")
    assert told["memories"] == 1


def test_the_whole_path_in_memory(memory: Memory) -> None:
    async def main() -> None:
        async with Client(create_mcp(Local(memory), None)) as client:
            await whole_path(client)

    anyio.run(main)


def test_what_is_remembered_is_compiled(memory: Memory) -> None:
    jobs = Jobs(memory, 10, 5)

    async def main() -> None:
        async with Client(create_mcp(Local(memory), jobs)) as client:
            await call(client, "remember", text=TEXT)
            while jobs.busy:
                await anyio.sleep(0.05)
            assert (await call(client, "list"))["memories"][0]["version"] == 1

    anyio.run(main)
    jobs.stop()


BAD: list[tuple[str, dict[str, Any]]] = [
    ("remember", {"text": ""}),
    ("remember", {"text": "a\0b"}),
    ("remember", {"text": 1}),
    ("remember", {}),
    ("remember", {"text": "a", "memory": "\n"}),
    ("remember", {"text": "a", "title": "x" * 513}),
    ("ask", {"question": " "}),
    ("ask", {"question": "a", "max_tokens": 0}),
    ("ask", {"question": "a", "within": "0" * 16}),
    ("ask", {"question": "a", "within": "../x"}),
    ("ask", {"question": "a " * 5000}),
    ("forget", {"memory_id": "../../etc/passwd"}),
    ("forget", {"memory_id": "0" * 16}),
    ("forget", {}),
    ("nothing", {}),
]


def test_bad_input_is_refused(memory: Memory) -> None:
    async def main() -> None:
        async with Client(create_mcp(Local(memory), None)) as client:
            for tool, arguments in BAD:
                said = await refused(client, tool, **arguments)
                assert "Traceback" not in said
                assert str(memory.bank.path) not in said

    anyio.run(main)


def test_what_goes_wrong_inside_stays_inside(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr(memory.bank, "list", broken)

    async def main() -> None:
        async with Client(create_mcp(Local(memory), None)) as client:
            assert "hunter2" not in await refused(client, "list")

    anyio.run(main)


def test_as_a_process_over_stdio(home: Path, tiny_model_folder: Path) -> None:
    words = ["-m", "memkit", "mcp", "--home", str(home), "--model", str(tiny_model_folder), "--no-compile"]

    server = StdioServerParameters(command=sys.executable, args=words, env=dict(os.environ))

    async def main() -> None:
        async with Client(stdio_client(server)) as client:
            await whole_path(client)

    anyio.run(main)
    with Bank(home) as bank:
        assert len(bank.list("default")) == 1


@asynccontextmanager
async def session(url: str, **headers: str) -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http)) as client,
    ):
        yield client


def test_over_http_a_key_says_whose_memories(home: Path, engine: TransformersEngine) -> None:
    with Memory(home, engine=engine, options=TINY_OPTIONS) as root:
        desk = Keyed(root)
        app = create_mcp(desk, None).streamable_http_app(stateless_http=True)
        acme, other = (f"Bearer {root.bank.keys.create(tenant)[1]}" for tenant in ("acme", "other"))

        async def main(url: str) -> None:
            async with session(url, Authorization=acme, **{"X-Memkit-User": "mira"}) as client:
                await whole_path(client)
                (left,) = (await call(client, "list"))["memories"]
                assert (await call(client, "status"))["user"] == "acme/mira"
            for headers in ({"Authorization": acme}, {"Authorization": other, "X-Memkit-User": "mira"}):
                async with session(url, **headers) as client:
                    assert (await call(client, "list"))["memories"] == []
                    await refused(client, "forget", memory_id=left["memory_id"])
                    await refused(client, "ask", question="Who?", within=left["memory_id"])

        with running(Gatekeeper(app, desk)) as url:
            anyio.run(main, url)
            for key in ({}, {"Authorization": "Bearer mk_0123456789abcdef_x"}, {"Authorization": acme[:-1]}):
                assert httpx2.post(f"{url}/mcp", json={}, headers=key).status_code == 401
            odd = {"Authorization": acme, "X-Memkit-User": "other%2Fmira"}
            assert httpx2.post(f"{url}/mcp", json={}, headers=odd).status_code == 400


def test_the_command(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("mcp", "--transport", "pigeon").code == 2
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    done = cli("mcp")
    assert done.code == 1
    assert "pip install 'memkit-llm[mcp]'" in done.err
