"""`MemkitMemory`: for chains of langchain-classic, which LangChain marks as deprecated."""

from __future__ import annotations

from typing import Any

from langchain_classic.base_memory import BaseMemory
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from pydantic import Field, PrivateAttr, SkipValidation

from memkit.errors import ConfigError
from memkit.integrations.langchain.history import MemkitChatMessageHistory
from memkit.integrations.langchain.messages import OncePerKind, clean, text_of
from memkit.integrations.langchain.recall import new_statements, recall_texts
from memkit.memory import Memory
from memkit.text.dialogue_acts import extract_statements
from memkit.text.normalize import is_blank


class MemkitMemory(BaseMemory):
    """Gives a chain, under ``memory_key``, the passages that bear on its input, and keeps what was stated.

    Kept is what the input states, and of the output what is new, as `MemkitMiddleware` does.
    Memory ends no chain: where it fails, the chain goes on without it, and the log says so once. New code
    takes `MemkitMiddleware`.
    """

    memory: SkipValidation[Memory] = Field(default_factory=Memory, exclude=True)
    session: str = "profile"
    memory_key: str = "history"
    input_key: str | None = None
    output_key: str | None = None
    _once: OncePerKind = PrivateAttr(default_factory=OncePerKind)

    @property
    def memory_variables(self) -> list[str]:
        return [self.memory_key]

    def load_memory_variables(self, inputs: dict[str, Any]) -> dict[str, Any]:
        question = self._one(inputs, self.input_key, "input")
        try:
            text = recall_texts(self.memory, question, {}) if not is_blank(question) else ""
        except Exception as error:  # whatever it is, it must not end the chain
            self._once.failed("recalling", error)
            text = ""
        return {self.memory_key: text}

    def save_context(self, inputs: dict[str, Any], outputs: dict[str, str]) -> None:
        asked = self._one(inputs, self.input_key, "input")
        said = self._one(outputs, self.output_key, "output")
        try:
            told_, new = extract_statements(asked), new_statements(self.memory, said, asked)
            self._history.add_messages([HumanMessage(told_), AIMessage(new)])
        except Exception as error:  # whatever it is, it must not end the chain
            self._once.failed("remembering", error)

    def clear(self) -> None:
        self._history.clear()

    @property
    def _history(self) -> MemkitChatMessageHistory:
        return MemkitChatMessageHistory(self.session, self.memory)

    def _one(self, values: dict[str, Any], key: str | None, what: str) -> str:
        names = [key] if key else [name for name in values if name not in (self.memory_key, "stop")]
        if len(names) != 1 or names[0] not in values:
            raise ConfigError(f"name the chain's {what} with {what}_key: it has {sorted(values)}")
        value = values[names[0]]
        return text_of(value) if isinstance(value, BaseMessage) else clean(str(value))
