"""The MCP server, asked by the SDK's own client: in memory and as a process."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("mcp")
pytest.importorskip("fastapi")

import anyio
from mcp import Client, StdioServerParameters, stdio_client
from mcp_kit import INSIDE, call, refused, whole_path

from memkit.bank import Bank
from memkit.engine.transformers.engine import TransformersEngine
from memkit.memory import Memory
from memkit.server.jobs import Jobs
from memkit.server.mcp import LocalMemory, create_mcp
from memkit.testing import TEXT, TINY_LCC

Session = Callable[[Client], Awaitable[None]]


@pytest.fixture
def memory(home: Path, engine: TransformersEngine) -> Iterator[Memory]:
    with Memory(home, user="mira", engine=engine, **TINY_LCC) as made:
        yield made


def test_the_whole_path_in_memory(memory: Memory) -> None:
    async def main() -> None:
        async with Client(create_mcp(LocalMemory(memory), None)) as client:
            await whole_path(client)

    anyio.run(main)


def test_what_is_remembered_is_compiled(memory: Memory) -> None:
    jobs = Jobs(memory, 10)

    async def main() -> None:
        async with Client(create_mcp(LocalMemory(memory), jobs)) as client:
            await call(client, "remember", text=TEXT)
            while jobs.busy:
                await anyio.sleep(0.05)
            assert (await call(client, "list"))["memories"][0]["version"] == 1

    anyio.run(main)
    jobs.stop()


@pytest.mark.parametrize(
    "name", ["\N{WOMAN}\u200d\N{PERSONAL COMPUTER}", "\u0645\u06cc\u200c\u062e", "10\u00a0km"]
)
def test_names_with_joined_characters(memory: Memory, name: str) -> None:
    async def main() -> None:
        async with Client(create_mcp(LocalMemory(memory), None)) as client:
            await call(client, "remember", text="I moved to Oslo.", memory=name, key=name)
            await call(client, "remember", text=TEXT, title=name)

    anyio.run(main)
    assert {(info.name, info.title) for info in memory.list_memories()} >= {(None, name)}
    assert name in {info.name for info in memory.list_memories()}


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
SAID: list[tuple[str, dict[str, Any], str]] = [
    ("remember", {}, "text: is missing"),
    ("remember", {"text": ""}, "text: is empty"),
    ("remember", {"text": None}, "text: must be a text"),
    ("remember", {"text": 1}, "text: must be a text"),
    ("remember", {"text": "a", "title": "x" * 513}, "title: has 513 characters, the most is 512"),
    (
        "remember",
        {"text": "a", "titel": "x"},
        "'titel' is no argument of `remember`; it takes: text, title, memory, key",
    ),
    ("remember", {"text": "x\ud800"}, "text: holds half a character (a lone surrogate)"),
    ("ask", {"question": "\ud83d?"}, "question: holds half a character (a lone surrogate)"),
    ("remember", {"text": "a", "key": "k"}, "`key` belongs to a running memory: name one as `memory`"),
    ("ask", {"question": " "}, "the question is empty"),
    ("ask", {"question": "a", "max_tokens": 0}, "max_tokens: must be at least 1"),
    ("ask", {"question": "a", "max_tokens": "many"}, "max_tokens: must be a whole number"),
    ("ask", {"question": "a", "within": "../x"}, "within: is no id: `list` shows ids"),
    ("forget", {"memory_id": "9"}, "memory_id: is no id: `list` shows ids"),
    ("forget", {"memory_id": None}, "memory_id: must be a text"),
    ("list", {"limit": 10**6}, "limit: must be at most 1,000"),
    ("list", {"cursor": "x"}, "cursor: invalid; pass the `next` of the previous page, or leave it out"),
    ("nothing", {}, "there is no tool 'nothing'; there are: ask, explain, forget, list, remember, status"),
]


def test_errors_are_plain_sentences(memory: Memory) -> None:
    async def main() -> None:
        async with Client(create_mcp(LocalMemory(memory), None)) as client:
            for tool, arguments, sentence in SAID:
                assert await refused(client, tool, **arguments) == sentence
            for tool, arguments in BAD:
                assert not INSIDE.search(await refused(client, tool, **arguments))

    anyio.run(main)


@pytest.mark.parametrize("nothing", ["", None])
def test_nothing_means_not_given(memory: Memory, nothing: Any) -> None:
    async def main() -> None:
        async with Client(create_mcp(LocalMemory(memory), None)) as client:
            tools = {tool.name: tool.input_schema for tool in (await client.list_tools()).tools}
            optional = {
                name: set(schema["properties"]) - set(schema.get("required", ()))
                for name, schema in tools.items()
            }
            assert optional == {
                "remember": {"title", "memory", "key"},
                "forget": {"matching"},
                "ask": {"max_tokens", "within"},
                "explain": {"within"},
                "list": {"cursor", "limit"},
                "status": set(),
            }

            def empty(tool: str) -> dict[str, Any]:
                return dict.fromkeys(optional[tool], nothing)

            made = await call(client, "remember", text=TEXT, **empty("remember"))
            assert (made["title"], made["entries"]) == ("", 0)
            asked = await call(client, "ask", question="Where does Mira live?", **empty("ask"))
            assert asked == await call(client, "ask", question="Where does Mira live?")
            assert asked["memory_id"] == made["memory_id"]
            why = await call(client, "explain", question="Where does Mira live?", **empty("explain"))
            assert why["memory_id"] == made["memory_id"]
            assert (await call(client, "list", **empty("list")))["memories"] == [made]
            gone = await call(client, "forget", memory_id=made["memory_id"], **empty("forget"))
            assert gone["left"] is None
            assert (await call(client, "status"))["memories"] == 0

    anyio.run(main)


def test_a_text_that_is_json_is_a_text(memory: Memory) -> None:
    async def main() -> None:
        async with Client(create_mcp(LocalMemory(memory), None)) as client:
            for text in ('{"a": 1}', "[1]", "null", "true", "17"):
                made = await call(client, "remember", text=f"{text} is a value", memory=text, key=text)
                assert made["entries"] == 1
                gone = await call(client, "forget", memory_id=made["memory_id"], matching=text)
                assert gone["memory_id"] == made["memory_id"]

    anyio.run(main)


def test_adding_is_not_said_to_be_idempotent_and_a_key_makes_it_so(memory: Memory) -> None:
    async def main() -> None:
        async with Client(create_mcp(LocalMemory(memory), None)) as client:
            (tool,) = [each for each in (await client.list_tools()).tools if each.name == "remember"]
            assert tool.annotations is not None
            assert (tool.annotations.idempotent_hint, tool.annotations.destructive_hint) == (False, False)
            entries = [
                (await call(client, "remember", text="I moved to Oslo.", memory="profile", key=key))[
                    "entries"
                ]
                for key in ("", "", "k1", "k1", "k2")
            ]
            assert entries == [1, 2, 3, 3, 4]

    anyio.run(main)


def test_lists_come_in_pages(memory: Memory) -> None:
    async def main() -> None:
        async with Client(create_mcp(LocalMemory(memory), None)) as client:
            ids = [(await call(client, "remember", text=f"Fact {n}."))["memory_id"] for n in range(7)]
            found, cursor, sizes = list[str](), "", list[int]()
            while True:
                page = await call(client, "list", cursor=cursor, limit=3)
                found += [each["memory_id"] for each in page["memories"]]
                sizes.append(len(page["memories"]))
                assert page["total"] == (7 if len(sizes) == 1 else 6)
                if not page["next"]:
                    break
                cursor = page["next"]
                if len(sizes) == 1:  # the last of a page is forgotten before the next one is asked for
                    await call(client, "forget", memory_id=ids[2])
            assert (found, sizes) == (ids, [3, 3, 1])
            whole = await call(client, "list")
            assert (len(whole["memories"]), whole["next"]) == (6, None)

    anyio.run(main)


def test_bad_input_is_refused(memory: Memory) -> None:
    async def main() -> None:
        async with Client(create_mcp(LocalMemory(memory), None)) as client:
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
        async with Client(create_mcp(LocalMemory(memory), None)) as client:
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


def test_over_stdio_it_acts_for_whom_the_command_names(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    acts = list[str]()

    def served(who: LocalMemory, jobs: Jobs | None, engine: str) -> SimpleNamespace:
        with who.memory(None) as memory:  # type: ignore[arg-type] # without a key nothing is asked of it
            acts.append(memory.owner)
        return SimpleNamespace(run=lambda transport: None)

    monkeypatch.setattr("memkit.server.mcp.create_mcp", served)
    for words in ((), ("--user", "mira"), ("--tenant", "acme", "--user", "mira"), ("--tenant", "acme")):
        assert cli("mcp", "--no-compile", *words).code == 0
    assert acts == ["default", "mira", "acme/mira", "acme/"]


def test_the_command(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("mcp", "--transport", "pigeon").code == 2
    assert cli("mcp", "--transport", "http", "--rate", 0).code == 2
    assert cli("mcp", "--transport", "http", "--max-body", 0).code == 2
    monkeypatch.setitem(sys.modules, "mcp.server.mcpserver", None)
    done = cli("mcp")
    assert done.code == 1
    assert "pip install 'memkit-llm[mcp]'" in done.err
