"""`MemkitChatMessageHistory`: a chat history stored as a running memory."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage

from memkit.integrations.langchain.messages import WarnOnce, dropped_kinds, message_of, role_of, text_of
from memkit.memory import Memory
from memkit.text.normalize import is_blank


class MemkitChatMessageHistory(BaseChatMessageHistory):
    """The messages of one session, each an entry of the running memory ``session`` of ``memory``.

    The router can answer from them, as from any memory. Of a message its role, text and date are stored;
    control characters are dropped. Messages without text, such as tool calls, are skipped. Works with
    ``RunnableWithMessageHistory``, which LangChain has deprecated; in new code use `MemkitMiddleware`.
    """

    def __init__(self, session: str, memory: Memory | None = None) -> None:
        self.session, self.memory = session, memory or Memory()
        self._once = WarnOnce()

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override] # LangChain's is a class attribute
        """All messages, ordered by date."""
        bank, user = self.memory.bank, self.memory.owner
        info = bank.logs.find(user, self.session)
        entries = bank.logs.entries(user, info.id) if info else []
        return [message_of(entry.speaker, entry.text) for entry in entries]

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Append messages, all or none. Raises `ConfigError` or `DocumentError` as `Memory.remember` does."""
        self._once.left_out(kind for message in messages for kind in dropped_kinds(message))
        turns = [{"role": role_of(m), "content": text} for m in messages if not is_blank(text := text_of(m))]
        if turns:
            self.memory.remember(turns, memory=self.session)

    def clear(self) -> None:
        """Forget the session and every artifact that was compiled from it."""
        if info := self.memory.bank.logs.find(self.memory.owner, self.session):
            self.memory.forget(info.id)
