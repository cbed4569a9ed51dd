"""`MemkitMemory`: for chains of langchain-classic, which LangChain marks as deprecated."""

from __future__ import annotations

from typing import Any

from langchain_classic.base_memory import BaseMemory
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import Field, SkipValidation

from memkit.errors import ConfigError
from memkit.integrations.langchain.history import MemkitChatMessageHistory
from memkit.memory import Memory


class MemkitMemory(BaseMemory):
    """Gives a chain, under ``memory_key``, the passages that bear on its input, and keeps what was said.

    New code takes `MemkitMiddleware`.
    """

    memory: SkipValidation[Memory] = Field(default_factory=Memory, exclude=True)
    session: str = "profile"
    memory_key: str = "history"
    input_key: str | None = None
    output_key: str | None = None

    @property
    def memory_variables(self) -> list[str]:
        return [self.memory_key]

    def load_memory_variables(self, inputs: dict[str, Any]) -> dict[str, Any]:
        question = self._one(inputs, self.input_key, "input")
        return {self.memory_key: self.memory.recall(question).text if question.strip() else ""}

    def save_context(self, inputs: dict[str, Any], outputs: dict[str, str]) -> None:
        asked = self._one(inputs, self.input_key, "input")
        said = self._one(outputs, self.output_key, "output")
        self._history.add_messages([HumanMessage(asked), AIMessage(said)])

    def clear(self) -> None:
        self._history.clear()

    @property
    def _history(self) -> MemkitChatMessageHistory:
        return MemkitChatMessageHistory(self.session, self.memory)

    def _one(self, values: dict[str, Any], key: str | None, what: str) -> str:
        names = [key] if key else [name for name in values if name not in (self.memory_key, "stop")]
        if len(names) != 1 or names[0] not in values:
            raise ConfigError(f"name the chain's {what} with {what}_key: it has {sorted(values)}")
        return str(values[names[0]])
