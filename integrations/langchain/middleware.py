"""`MemkitMiddleware`: memory for agents of ``langchain.agents.create_agent``."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain.agents.middleware.types import AgentState
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langgraph.runtime import Runtime

from memkit.bank.conversation_logs import MAX_NAME
from memkit.bank.owners import Owner
from memkit.bank.types import check_line
from memkit.errors import ConfigError, DocumentError
from memkit.integrations.langchain.messages import WarnOnce, dropped_kinds, role_of, text_of
from memkit.integrations.langchain.recall import (
    new_statements,
    recall_passages,
    strip_thinking,
    words_by_speaker,
)
from memkit.memory import Memory
from memkit.text.dialogue_acts import extract_statements
from memkit.text.normalize import is_blank

Remember = Literal["user", "all", "none"]
User = str | Owner
INTRODUCTION = "What you remember that may bear on the last message:"
CACHED_USERS = 64
MAX_SEEN = 10_000  # messages that one process remembers having seen


class MemkitMiddleware(AgentMiddleware[AgentState[Any], Any, Any]):
    """Recalls memories before each model call, and remembers statements after it.

    Before the call, the passages that the gate chooses for the human messages since the model's last answer
    are appended to the system message, below ``introduction``. They are text, as an agent's model takes no
    artifacts. If the gate chooses no memory, nothing is appended. What was said in the same run is not
    recalled.

    After the call, the statements of the user (``remember="user"``), of both sides ("all") or of nobody
    ("none") become entries of the running memory ``name``. Questions are not remembered, nor sentences of
    the model that add nothing new. A message with an id is remembered once, even if an agent or its
    checkpoints process it again; an edit is remembered as another entry, also one that restores an earlier
    text.

    ``memory`` gives the bank and the default user. ``user`` is the user whose memories are used: a name in
    the tenant of ``memory``, an `Owner`, or a function from the runtime to one of these; None means the user
    of ``memory``.

    A failure of the memory does not end the run: the model is called without it, and the logger
    "memkit.langchain" reports it once. Message parts that are not text are ignored.

    Raises `ValueError` for an unknown ``remember``, `ConfigError` for a name that is not valid.
    """

    def __init__(
        self,
        memory: Memory | None = None,
        *,
        user: User | Callable[[Runtime[Any]], User] | None = None,
        remember: Remember = "user",
        name: str = "profile",
        introduction: str = INTRODUCTION,
    ) -> None:
        super().__init__()
        if remember not in ("user", "all", "none"):
            raise ValueError(f"remember must be user, all or none, got {remember!r}")
        self.memory, self.user, self.remember = memory or Memory(), user, remember
        self.log, self.introduction = check_line("a running memory's name", name, MAX_NAME), introduction
        self._for_user = lru_cache(CACHED_USERS)(self.memory.for_user)
        # By owner and message id, the digests of the message's last text and of its statements.
        self._seen, self._once = OrderedDict[tuple[str, str], tuple[str, str]](), WarnOnce()
        if user is not None and not callable(user):
            self._memory_for(user)  # raises for an invalid name now, not in the middle of a run

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Recall, then call the model."""
        return handler(self._with_memories(request))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """As `wrap_model_call`; the recall runs in a thread."""
        return await handler(await asyncio.to_thread(self._with_memories, request))

    def after_model(self, state: AgentState[Any], runtime: Runtime[Any]) -> None:
        """Remember the new statements."""
        self._remember(state["messages"], runtime)

    async def aafter_model(self, state: AgentState[Any], runtime: Runtime[Any]) -> None:
        """As `after_model`, in a thread."""
        await asyncio.to_thread(self._remember, state["messages"], runtime)

    # -- users ----------------------------------------------------------------------------------
    def _memory_of_run(self, runtime: Runtime[Any]) -> Memory:
        if self.user is None:
            return self.memory
        return self._memory_for(self.user(runtime) if callable(self.user) else self.user)

    def _memory_for(self, user: Any) -> Memory:
        """The memory of a user. Raises `ConfigError` for an empty name: never fall back to another user."""
        if not isinstance(user, str | Owner) or not user:
            raise ConfigError(f"the middleware's `user` is a name or an Owner, got {user!r:.80}")
        owner = Owner(user, self.memory.tenant) if isinstance(user, str) else user
        return self.memory if owner == self.memory.whose else self._for_user(owner)

    # -- recalling ------------------------------------------------------------------------------
    def _with_memories(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        """The request with the recalled passages in its system message."""
        try:
            messages = _open_question(request.messages)
            self._once.left_out(kind for message in messages for kind in dropped_kinds(message))
            question = "\n".join(text for each in messages if not is_blank(text := text_of(each)))
            if not question:
                return request
            memory = self._memory_of_run(request.runtime)
            text = recall_passages(memory, question, words_by_speaker(request.messages))
            if not text:
                return request
            return request.override(system_message=self._extended(request.system_message, text))
        except Exception as error:  # a failing memory must not end the run
            self._once.failed("recalling", error)
            return request

    def _extended(self, system: SystemMessage | None, text: str) -> SystemMessage:
        """The system message with the recalled ``text`` appended; existing blocks stay as they are."""
        text = f"{self.introduction}\n{text}".strip()
        if system is None or not system.content:
            return SystemMessage(text)
        if isinstance(system.content, str):
            content: Any = f"{system.content}\n\n{text}"
        else:
            content = [*system.content, {"type": "text", "text": text}]
        return system.model_copy(update={"content": content})

    # -- remembering ----------------------------------------------------------------------------
    def _remember(self, messages: Sequence[BaseMessage], runtime: Runtime[Any]) -> None:
        if self.remember == "none":
            return
        kinds = (HumanMessage,) if self.remember == "user" else (HumanMessage, AIMessage)
        question, last, memory = "", len(messages) - 1, None
        for position, message in enumerate(messages):
            try:
                memory = memory or self._memory_of_run(runtime)
                text = text_of(message)
                question = text if isinstance(message, HumanMessage) and not is_blank(text) else question
                # An older message without an id was remembered when it was new.
                new = message.id is not None or position >= last - 1
                if isinstance(message, kinds) and new and _is_original(message):
                    self._remember_message(memory, message, text, question)
            except (DocumentError, ConfigError) as error:  # a fault of one message, or of `user`
                self._once.failed("remembering", error)
            except Exception as error:  # a failing memory must not end the run
                self._once.failed("remembering", error)
                return

    def _remember_message(self, memory: Memory, message: BaseMessage, text: str, question: str) -> None:
        """Remember what a message states, unless it was remembered before."""
        seen_key, text_digest = (memory.owner, message.id or ""), _digest("", text)
        seen_text, seen_statements = self._seen.get(seen_key, ("", ""))
        if message.id is not None and text_digest == seen_text:
            return
        self._once.left_out(dropped_kinds(message))
        statements = extract_statements(strip_thinking(text) if isinstance(message, AIMessage) else text)
        digest, key = _digest("", statements) if statements else seen_statements, None
        if message.id is not None and statements:
            key = self._entry_key(memory, message.id, statements, digest, seen_statements)
            statements = statements if key else ""
        if isinstance(message, AIMessage):
            statements = new_statements(memory, statements, question, self.introduction)
        try:
            if not is_blank(statements):
                entry = {"role": role_of(message), "content": statements}
                memory.remember([entry], memory=self.log, key=key)
        except (ConfigError, DocumentError):  # a fault of the text, which would occur again
            self._mark_seen(message, seen_key, (text_digest, digest))
            raise
        self._mark_seen(message, seen_key, (text_digest, digest))

    def _entry_key(
        self, memory: Memory, message_id: str, statements: str, digest: str, seen: str
    ) -> str | None:
        """The idempotency key of this version of a message; None if the version is remembered already.

        If this process has ``seen`` another version since, an earlier text gets a new key.
        """
        if digest == seen:
            return None
        key = name = f"message {_digest(message_id, statements)}"
        is_known, edit = memory.bank.logs.known, 1
        while is_known(memory.owner, self.log, key):
            if not seen:
                return None
            edit += 1
            key = f"{name} {edit}"
        return key

    def _mark_seen(self, message: BaseMessage, key: tuple[str, str], digests: tuple[str, str]) -> None:
        if message.id is not None:
            self._seen[key] = digests
            self._seen.move_to_end(key)
        while len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)


def _open_question(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """The human messages since the model's last answer; if they have no text, those before it too."""
    question = list[BaseMessage]()
    for message in reversed(messages):
        if isinstance(message, HumanMessage) and _is_original(message):
            question.append(message)
            continue
        answered = (
            isinstance(message, AIMessage) and not message.tool_calls and not is_blank(text_of(message))
        )
        if answered and any(not is_blank(text_of(each)) for each in question):
            break
    return question[::-1]


def _is_original(message: BaseMessage) -> bool:
    """Whether somebody wrote the message; other middleware adds summaries as human messages."""
    return not message.additional_kwargs.get("lc_source")


def _digest(message_id: str, text: str) -> str:
    """A digest of a message's id and text, so that an edited message has another one."""
    return hashlib.sha256(f"{message_id}\0{text}".encode(errors="surrogatepass")).hexdigest()
