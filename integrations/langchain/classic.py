"""`MemkitMemory`: a memory for chains of langchain-classic, which LangChain has deprecated."""

from __future__ import annotations

from typing import Any

from langchain_classic.base_memory import BaseMemory
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from pydantic import Field, PrivateAttr, SkipValidation

from memkit.errors import ConfigError
from memkit.integrations.langchain.history import MemkitChatMessageHistory
from memkit.integrations.langchain.messages import WarnOnce, clean, text_of
from memkit.integrations.langchain.recall import new_statements, recall_passages
from memkit.memory import Memory
from memkit.text.dialogue_acts import extract_statements
from memkit.text.normalize import is_blank


class MemkitMemory(BaseMemory):
    """Gives a chain the passages that are relevant to its input, and remembers statements.

    The passages are the variable ``memory_key``. Statements of the input, and those of the output that
    are new, become entries of the running memory ``session``, as with `MemkitMiddleware`. ``input_key`` and
    ``output_key`` name the chain's input and output; they are needed if it has several.

    A failure of the memory does not end the chain: it continues without memory, and the log says so once.
    In new code use `MemkitMiddleware`. Raises `ConfigError` if the input or output is ambiguous.
    """

    memory: SkipValidation[Memory] = Field(default_factory=Memory, exclude=True)
    session: str = "profile"
    memory_key: str = "history"
    input_key: str | None = None
    output_key: str | None = None
    _once: WarnOnce = PrivateAttr(default_factory=WarnOnce)

    @property
    def memory_variables(self) -> list[str]:
        """The names of the variables that the chain gets."""
        return [self.memory_key]

    def load_memory_variables(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The passages that are relevant to the chain's input."""
        question = self._value(inputs, self.input_key, "input")
        try:
            text = recall_passages(self.memory, question, {}) if not is_blank(question) else ""
        except Exception as error:  # a failing memory must not end the chain
            self._once.failed("recalling", error)
            text = ""
        return {self.memory_key: text}

    def save_context(self, inputs: dict[str, Any], outputs: dict[str, str]) -> None:
        """Remember what the input states, and what the output adds."""
        question = self._value(inputs, self.input_key, "input")
        answer = self._value(outputs, self.output_key, "output")
        try:
            additions = new_statements(self.memory, answer, question)
            self._history.add_messages([HumanMessage(extract_statements(question)), AIMessage(additions)])
        except Exception as error:  # a failing memory must not end the chain
            self._once.failed("remembering", error)

    def clear(self) -> None:
        """Forget the session."""
        self._history.clear()

    @property
    def _history(self) -> MemkitChatMessageHistory:
        return MemkitChatMessageHistory(self.session, self.memory)

    def _value(self, values: dict[str, Any], key: str | None, what: str) -> str:
        names = [key] if key else [name for name in values if name not in (self.memory_key, "stop")]
        if len(names) != 1 or names[0] not in values:
            raise ConfigError(f"name the chain's {what} with {what}_key: it has {sorted(values)}")
        value = values[names[0]]
        return text_of(value) if isinstance(value, BaseMessage) else clean(str(value))
