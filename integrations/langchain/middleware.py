"""`MemkitMiddleware`: memory for agents of ``langchain.agents.create_agent``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Literal

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain.agents.middleware.types import AgentState
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langgraph.runtime import Runtime

from memkit.integrations.langchain.messages import role_of, text_of
from memkit.memory import Memory

Remember = Literal["user", "all", "none"]
INTRODUCTION = "What you remember that may bear on the last message:"


class MemkitMiddleware(AgentMiddleware[AgentState[Any], Any, Any]):
    """Recalls before a model call, and remembers after it.

    Before the call, the memory that the gate would use for the last human message is read into the system
    message, as text: an agent's model takes no artifacts. Where the gate uses none, nothing is added.
    After it, what the user said (``remember="user"``), what both said ("all") or nothing ("none") becomes
    entries of the running memory ``name``; a message with an id is remembered once, however often an agent
    or its checkpoints see it again.

    ``user`` tells whose memories they are: a name, or what makes one of the runtime; by default they are
    those of ``memory.user``.
    """

    def __init__(
        self,
        memory: Memory | None = None,
        *,
        user: str | Callable[[Runtime[Any]], str] | None = None,
        remember: Remember = "user",
        name: str = "profile",
        introduction: str = INTRODUCTION,
    ) -> None:
        super().__init__()
        if remember not in ("user", "all", "none"):
            raise ValueError(f"remember must be user, all or none, got {remember!r}")
        self.memory, self.user, self.remember = memory or Memory(), user, remember
        self.log, self.introduction = name, introduction

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Recall, then call the model."""
        return handler(self._recalled(request))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """As `wrap_model_call`; recalling is done in a thread."""
        return await handler(await asyncio.to_thread(self._recalled, request))

    def after_model(self, state: AgentState[Any], runtime: Runtime[Any]) -> None:
        """Remember what was said."""
        self._remember(state["messages"], runtime)

    async def aafter_model(self, state: AgentState[Any], runtime: Runtime[Any]) -> None:
        """As `after_model`; remembering is done in a thread."""
        await asyncio.to_thread(self._remember, state["messages"], runtime)

    def _whose(self, runtime: Runtime[Any]) -> Memory:
        user = self.user(runtime) if callable(self.user) else self.user
        return self.memory if user is None or user == self.memory.user else self.memory.of(user)

    def _recalled(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        asked = next((m for m in reversed(request.messages) if isinstance(m, HumanMessage)), None)
        question = text_of(asked) if asked is not None else ""
        if not question.strip():
            return request
        recalled = self._whose(request.runtime).recall(question)
        if not recalled.text:
            return request
        before = f"{request.system_message.text}\n\n" if request.system_message else ""
        told = SystemMessage(f"{before}{self.introduction}\n{recalled.text}")
        return request.override(system_message=told)

    def _remember(self, messages: Sequence[BaseMessage], runtime: Runtime[Any]) -> None:
        kinds = {"user": (HumanMessage,), "all": (HumanMessage, AIMessage), "none": ()}[self.remember]
        memory, last = self._whose(runtime), len(messages) - 1
        for place, message in enumerate(messages):
            if not isinstance(message, kinds) or not (text := text_of(message)).strip():
                continue
            if message.id is None and place < last - 1:
                continue  # without an id it was remembered when it was new, after the call that followed it
            key = None if message.id is None else f"message {message.id}"[:256]
            memory.remember([{"role": role_of(message), "content": text}], memory=self.log, key=key)
