"""memkit: memory middleware for LLM agents.

    >>> import memkit
    >>> memkit.remember("Simsem lives in Lasces.", wait=True)
    >>> memkit.ask("Where does Simsem live?").text
    'Lasces'

`Memory` is the same with a path, a model and a user of your choice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memkit._version import __version__
from memkit.errors import MemkitError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from memkit.bank import MemoryInfo, Receipt
    from memkit.document import Document
    from memkit.memory import Answer, Memory, MessageLike, Trace
    from memkit.text.messages import When

_LAZY = {
    "Answer": "memkit.memory",
    "Document": "memkit.document",
    "Memory": "memkit.memory",
    "MemoryInfo": "memkit.bank",
    "Trace": "memkit.memory",
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


def ask(question: str, *, user: str = "default") -> Answer:
    """Answer a question from a user's memories in the default bank; see `Memory.ask`."""
    return _memory(user).ask(question)


def forget(memory_id: str, *, user: str = "default") -> list[Receipt]:
    """Forget one memory in the default bank; see `Memory.forget`."""
    return _memory(user).forget(memory_id)


def forget_all(*, user: str = "default") -> list[Receipt]:
    """Forget everything that a user has in the default bank; see `Memory.forget_all`."""
    return _memory(user).forget_all()


__all__ = [
    "Answer",
    "Document",
    "MemkitError",
    "Memory",
    "MemoryInfo",
    "Trace",
    "__version__",
    "ask",
    "forget",
    "forget_all",
    "remember",
]
