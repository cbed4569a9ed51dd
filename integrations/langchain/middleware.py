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
from memkit.integrations.langchain.messages import OncePerKind, dropped_blocks, role_of, text_of
from memkit.integrations.langchain.recall import (
    new_statements,
    recall_message,
    recall_texts,
    statements_in,
)
from memkit.memory import Memory
from memkit.text.dialogue_acts import extract_statements
from memkit.text.normalize import is_blank

Remember = Literal["user", "all", "none"]
User = str | Owner
INTRODUCTION = "What you remember that may bear on the last message:"
USERS = 64  # whose memories are kept ready
SEEN = 10_000  # messages that are known to have been looked at


class MemkitMiddleware(AgentMiddleware[AgentState[Any], Any, Any]):
    """Recalls before a model call, and remembers after it.

    Before the call, the passages of the memory that the gate would use for the last human message (for all
    of them since the model's last answer) are added to the system message, as text: an agent's model takes no
    artifacts. Where the gate uses none, nothing is added. What the run itself said is not recalled to it.
    After it, what the user stated (``remember="user"``), what both did ("all") or nothing ("none") becomes
    entries of the running memory ``name``. Questions are not remembered, nor what a model repeats of what is
    known; a message with an id is remembered once, however often an agent or its checkpoints see it again,
    and once more when it is edited, back to what it was included.

    ``user`` tells whose memories they are: a user's name, of the same tenant as ``memory``'s, or an `Owner`,
    or what makes one of the runtime; by default they are those of ``memory``.

    Memory ends no run: where it fails the model is called without it, and the log of "memkit.langchain"
    says so once. Of messages the text is read; other parts are left out.
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
        self._of = lru_cache(USERS)(self.memory.for_user)
        # Of each message, by owner and id, the text that was seen last, and what it stated (as digests).
        self._seen, self._once = OrderedDict[tuple[str, str], tuple[str, str]](), OncePerKind()
        if user is not None and not callable(user):
            self._named(user)  # a name that cannot be one is an error now, not in mid-run

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

    # -- whose ----------------------------------------------------------------------------------
    def _whose(self, runtime: Runtime[Any]) -> Memory:
        if self.user is None:
            return self.memory
        return self._named(self.user(runtime) if callable(self.user) else self.user)

    def _named(self, user: Any) -> Memory:
        """The memories of a user; never those of another where none is named."""
        if not isinstance(user, str | Owner) or not user:
            raise ConfigError(f"the middleware's `user` is a name or an Owner, got {user!r:.80}")
        whose = Owner(user, self.memory.tenant) if isinstance(user, str) else user
        return self.memory if whose == self.memory.whose else self._of(whose)

    # -- recalling ------------------------------------------------------------------------------
    def _recalled(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        try:
            asked = _asked(request.messages)
            self._once.left_out(kind for message in asked for kind in dropped_blocks(message))
            question = "\n".join(text for each in asked if not is_blank(text := text_of(each)))
            if not question:
                return request
            text = recall_texts(self._whose(request.runtime), question, statements_in(request.messages))
            return (
                request.override(system_message=self._joined(request.system_message, text))
                if text
                else request
            )
        except Exception as error:  # whatever it is, it must not end the run
            self._once.failed("recalling", error)
            return request

    def _joined(self, system: SystemMessage | None, text: str) -> SystemMessage:
        """The system message with what is remembered behind it; its blocks stay as they are."""
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
        asked, last, memory = "", len(messages) - 1, None
        for place, message in enumerate(messages):
            try:
                memory = memory or self._whose(runtime)
                said = text_of(message)
                asked = said if isinstance(message, HumanMessage) and not is_blank(said) else asked
                new = message.id is not None or place >= last - 1  # else remembered when it was the newest
                if isinstance(message, kinds) and new and _by_somebody(message):
                    self._keep(memory, message, said, asked)
            except (DocumentError, ConfigError) as error:  # a fault of one message, or of `user`
                self._once.failed("remembering", error)
            except Exception as error:  # whatever it is, it must not end the run
                self._once.failed("remembering", error)
                return

    def _keep(self, memory: Memory, message: BaseMessage, said: str, asked: str) -> None:
        """Remember what a message states, unless that was done."""
        place, text = (memory.owner, message.id or ""), _digest("", said)
        before, last = self._seen.get(place, ("", ""))
        if message.id is not None and text == before:
            return
        self._once.left_out(dropped_blocks(message))
        stated = extract_statements(recall_message(said) if isinstance(message, AIMessage) else said)
        form, key = _digest("", stated) if stated else last, None
        if message.id is not None and stated:
            key = self._key(memory, message.id, stated, form, last)
            stated = stated if key else ""
        if isinstance(message, AIMessage):
            stated = new_statements(memory, stated, asked, self.introduction)
        try:
            if not is_blank(stated):
                entry = {"role": role_of(message), "content": stated}
                memory.remember([entry], memory=self.log, key=key)
        except (ConfigError, DocumentError):  # a fault of the text, which would come again
            self._note(message, place, (text, form))
            raise
        self._note(message, place, (text, form))

    def _key(self, memory: Memory, message_id: str, stated: str, form: str, last: str) -> str | None:
        """What names a version of a message in the running memory; None where it is remembered already.

        A text that is known is another version where this process saw another one after it.
        """
        if form == last:
            return None
        key = name = f"message {_digest(message_id, stated)}"
        known, edit = memory.bank.logs.known, 1
        while known(memory.owner, self.log, key):
            if not last:
                return None
            edit += 1
            key = f"{name} {edit}"
        return key

    def _note(self, message: BaseMessage, place: tuple[str, str], seen: tuple[str, str]) -> None:
        if message.id is not None:
            self._seen[place] = seen
            self._seen.move_to_end(place)
        while len(self._seen) > SEEN:
            self._seen.popitem(last=False)


def _asked(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """What was said since the model's last answer; where that is nothing, what was said before it."""
    asked = list[BaseMessage]()
    for message in reversed(messages):
        if isinstance(message, HumanMessage) and _by_somebody(message):
            asked.append(message)
            continue
        answered = (
            isinstance(message, AIMessage) and not message.tool_calls and not is_blank(text_of(message))
        )
        if answered and any(not is_blank(text_of(each)) for each in asked):
            break
    return asked[::-1]


def _by_somebody(message: BaseMessage) -> bool:
    """Whether it was said: other middleware puts summaries of a conversation in a user's mouth."""
    return not message.additional_kwargs.get("lc_source")


def _digest(message_id: str, text: str) -> str:
    """What names a message and its text, so that an edit is another one."""
    return hashlib.sha256(f"{message_id}\0{text}".encode(errors="surrogatepass")).hexdigest()
