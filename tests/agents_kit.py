"""What the tests of agents share: a model that only reads, its tool, and what was remembered."""

from __future__ import annotations

import re
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field

from memkit.memory import Memory

FACT = "Simsem lives in Lasces."


class Reader(BaseChatModel):
    """Answers where somebody lives from the system message alone, after as many calls of a tool as wished."""

    tools_first: int = 0
    says: str = ""  # in front of every answer
    read: list[list[BaseMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "reader"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self.read.append(messages)
        last = max(i for i, m in enumerate(messages) if isinstance(m, HumanMessage))
        used = sum(isinstance(m, ToolMessage) for m in messages[last:])
        message = AIMessage(self.says + self._answer(str(messages[last].text), self.system_text))
        if used < self.tools_first:
            call = {"name": "clock", "args": {}, "id": f"call {len(self.read)}"}
            message = AIMessage("", tool_calls=[call])
        return ChatResult(generations=[ChatGeneration(message=message)])

    @staticmethod
    def _answer(question: str, context: str) -> str:
        who = re.search(r"where does (\w+) live", question, re.IGNORECASE)
        found = re.findall(rf"{who.group(1)} lives in (\w+)", context) if who else []
        return f"In {found[-1]}." if found else "I do not know."

    @property
    def system_text(self) -> str:
        """The system message of the latest call."""
        first = self.read[-1][0]
        return str(first.text) if isinstance(first, SystemMessage) else ""


def clock() -> str:
    """The time."""
    return "It is nine."


def last_text(state: dict[str, Any]) -> str:
    return str(state["messages"][-1].content)


def entries(memory: Memory) -> list[tuple[str, str]]:
    info = memory.bank.logs.find(memory.owner, "profile")
    found = memory.bank.logs.entries(memory.owner, info.id) if info else []
    return [(entry.speaker, entry.text) for entry in found]
