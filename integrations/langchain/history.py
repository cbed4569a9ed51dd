"""`MemkitChatMessageHistory`: a conversation kept as a running memory."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import BaseMessage

from memkit.integrations.langchain.messages import OncePerKind, dropped_blocks, message_of, role_of, text_of
from memkit.memory import Memory
from memkit.text.normalize import is_blank


class MemkitChatMessageHistory(BaseChatMessageHistory):
    """The messages of one session, each an entry of the running memory ``session``.

    They can be asked about as all memories. Only who said what and when is kept of a message: its text,
    without what a text cannot hold. Messages that have none, as those that only call tools, are left out.
    Works under ``RunnableWithMessageHistory``, which LangChain marks as deprecated; new code takes
    `MemkitMiddleware`.
    """

    def __init__(self, session: str, memory: Memory | None = None) -> None:
        self.session, self.memory = session, memory or Memory()
        self._once = OncePerKind()

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override] # LangChain's is a class attribute
        """All messages, in the order of their dates."""
        bank, user = self.memory.bank, self.memory.owner
        info = bank.logs.find(user, self.session)
        entries = bank.logs.entries(user, info.id) if info else []
        return [message_of(entry.speaker, entry.text) for entry in entries]

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Add messages, all or none."""
        self._once.left_out(kind for message in messages for kind in dropped_blocks(message))
        said = [{"role": role_of(m), "content": text} for m in messages if not is_blank(text := text_of(m))]
        if said:
            self.memory.remember(said, memory=self.session)

    def clear(self) -> None:
        """Forget the session, with all that was compiled from it."""
        if info := self.memory.bank.logs.find(self.memory.owner, self.session):
            self.memory.forget(info.id)
