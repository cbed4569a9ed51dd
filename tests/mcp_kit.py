"""What the tests of MCP share, over stdio, in memory and over HTTP."""

from __future__ import annotations

import re
from typing import Any

from mcp import Client

from memkit.testing import TEXT

TOOLS = {"remember", "ask", "forget", "list", "explain", "status"}
INSIDE = re.compile(
    r"pydantic|https?://|Input should|Value error|Traceback|Error executing|_value=|_type=", re.I
)


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
