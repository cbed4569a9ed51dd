"""memkit: memory middleware for LLM agents.

    >>> import memkit
    >>> memkit.remember("Simsem lives in Lasces.", wait=True)
    >>> memkit.ask("Where does Simsem live?").text
    'Lasces'

`Memory` does the same with a path, a model and a user of your choice, `AsyncMemory` for asyncio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memkit._version import __version__
from memkit.errors import (
    ArtifactError,
    BankBusyError,
    BankError,
    BankFullError,
    BankReadOnlyError,
    CompileError,
    ConfigError,
    ContextTooLongError,
    DocumentError,
    EngineError,
    FingerprintError,
    MemkitError,
    MissingExtraError,
    ModelError,
    NotFoundError,
    QuotaError,
    VerificationError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memkit.answer import Answer as Answer
    from memkit.answer import Stream as Stream
    from memkit.answer import Trace as Trace
    from memkit.async_memory import AsyncMemory as AsyncMemory
    from memkit.bank import MemoryInfo as MemoryInfo
    from memkit.bank import Message as Message
    from memkit.bank import Receipt as Receipt
    from memkit.bank.owners import Owner as Owner
    from memkit.document import Document as Document
    from memkit.document import Span as Span
    from memkit.memory import Memory as Memory
    from memkit.router.router import GateChoice
    from memkit.text.messages import MessageLike, When

_LAZY = {
    "Answer": "memkit.answer",
    "AsyncMemory": "memkit.async_memory",
    "Document": "memkit.document",
    "Memory": "memkit.memory",
    "MemoryInfo": "memkit.bank",
    "Message": "memkit.bank",
    "Owner": "memkit.bank.owners",
    "Receipt": "memkit.bank",
    "Span": "memkit.document",
    "Stream": "memkit.answer",
    "Trace": "memkit.answer",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'memkit' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def _memory(user: str) -> Memory:
    from memkit import _default

    return _default.memory(user)


def remember(
    document: str | Document | Sequence[MessageLike],
    *,
    user: str = "default",
    memory: str | None = None,
    when: When | None = None,
    key: str | None = None,
    title: str = "",
    wait: bool = False,
    always: bool = False,
) -> MemoryInfo:
    """Remember a document, or what was said, for a user in the default bank; see `Memory.remember`."""
    return _memory(user).remember(
        document, memory=memory, when=when, key=key, title=title, wait=wait, always=always
    )


def ask(question: str, *, user: str = "default", gate: GateChoice | None = None) -> Answer:
    """Answer a question from a user's memories in the default bank; see `Memory.ask`."""
    return _memory(user).ask(question, gate=gate)


def forget(memory_id: str, *, user: str = "default") -> list[Receipt]:
    """Forget one memory in the default bank; see `Memory.forget`."""
    return _memory(user).forget(memory_id)


def forget_all(*, user: str = "default") -> list[Receipt]:
    """Forget everything that a user has in the default bank; see `Memory.forget_all`."""
    return _memory(user).forget_all()


__all__ = [
    "Answer",
    "ArtifactError",
    "AsyncMemory",
    "BankBusyError",
    "BankError",
    "BankFullError",
    "BankReadOnlyError",
    "CompileError",
    "ConfigError",
    "ContextTooLongError",
    "Document",
    "DocumentError",
    "EngineError",
    "FingerprintError",
    "MemkitError",
    "Memory",
    "MemoryInfo",
    "Message",
    "MissingExtraError",
    "ModelError",
    "NotFoundError",
    "Owner",
    "QuotaError",
    "Receipt",
    "Span",
    "Stream",
    "Trace",
    "VerificationError",
    "__version__",
    "ask",
    "forget",
    "forget_all",
    "remember",
]
