"""memkit in LangChain 1.x and LangGraph: ``pip install 'memkit-llm[langchain]'``.

`ChatMemkit` is a chat model that answers from memories. `MemkitMiddleware` gives memories to any agent of
``create_agent``. `MemkitStore` is a LangGraph store, `MemkitRetriever` a retriever.
`MemkitChatMessageHistory` and `MemkitMemory` serve interfaces that LangChain has deprecated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from memkit.errors import MissingExtraError, install_line

if __name__ != "memkit.integrations.langchain":
    raise ImportError("import this package as 'memkit.integrations.langchain'")

if TYPE_CHECKING:
    from memkit.integrations.langchain.chat import ChatMemkit
    from memkit.integrations.langchain.classic import MemkitMemory
    from memkit.integrations.langchain.history import MemkitChatMessageHistory
    from memkit.integrations.langchain.middleware import MemkitMiddleware
    from memkit.integrations.langchain.retriever import MemkitRetriever
    from memkit.integrations.langchain.store import MemkitStore

_LAZY = {
    "ChatMemkit": "chat",
    "MemkitChatMessageHistory": "history",
    "MemkitMemory": "classic",
    "MemkitMiddleware": "middleware",
    "MemkitRetriever": "retriever",
    "MemkitStore": "store",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'memkit.integrations.langchain' has no attribute {name!r}")
    from importlib import import_module

    try:
        module = import_module(f"memkit.integrations.langchain.{_LAZY[name]}")
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package.startswith("lang"):
            raise
        extra = ["langchain-classic"] if package == "langchain_classic" else []
        raise MissingExtraError(package, install_line("langchain", *extra)) from error
    return getattr(module, name)


__all__ = [
    "ChatMemkit",
    "MemkitChatMessageHistory",
    "MemkitMemory",
    "MemkitMiddleware",
    "MemkitRetriever",
    "MemkitStore",
]
