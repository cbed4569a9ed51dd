"""Worker for LangGraph's own stores, run by `loop` in an environment with langgraph."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

if not hasattr(sqlite3.Connection, "enable_load_extension"):
    import pysqlite3

    sys.modules["sqlite3"] = pysqlite3

from langgraph.store.base import PutOp
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore

NAMESPACE = ("bench",)
SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")


class Worker:
    """An ``InMemoryStore``, or a ``SqliteStore`` in the folder ``data``; the caller brings the vectors."""

    def __init__(self, kind: str, dim: int, data: str) -> None:
        self._vectors: dict[str, list[float]] = {}
        # SqliteStore 3.1.2 documents "fields", and reads "text_fields".
        index: Any = {"dims": dim, "embed": self._embed, "fields": ["text"], "text_fields": ["text"]}
        self._store: Any
        if kind == "InMemoryStore":
            self._store = InMemoryStore(index=index)
        else:
            path = str(Path(data, "store.sqlite"))
            self._open = ExitStack()
            self._store = self._open.enter_context(SqliteStore.from_conn_string(path, index=index))
            self._store.setup()

    def _embed(self, texts: list[str]) -> list[list[float]]:
        return [self._vectors[text] for text in texts]

    def durability(self) -> str:
        """The durability of a write, as SQLite's settings."""
        if isinstance(self._store, InMemoryStore):
            return "memory only"
        pragmas = (self._store.conn.execute(f"PRAGMA {name}") for name in ("synchronous", "journal_mode"))
        level, journal = (each.fetchone()[0] for each in pragmas)
        return f"SQLite, journal {journal}, synchronous {SYNCHRONOUS[level]}"

    def fill(self, items: list[tuple[str, str, list[float]]]) -> None:
        """Store items, each a key, a text and its vector ``[dim]``, in one batch."""
        self._vectors = {text: vector for _, text, vector in items}
        self._store.batch([PutOp(NAMESPACE, key, {"text": text}) for key, text, _ in items])

    def put(self, key: str, text: str, vector: list[float]) -> None:
        """Store a text under a key, with its vector ``[dim]``."""
        self._vectors = {text: vector}
        self._store.put(NAMESPACE, key, {"text": text})

    def search(self, text: str, vector: list[float], k: int) -> list[str]:
        """Keys of the ``k`` items nearest to a query with the vector ``[dim]``."""
        self._vectors = {text: vector}
        return [item.key for item in self._store.search(NAMESPACE, query=text, limit=k)]

    def get(self, key: str) -> str:
        """The text under a key."""
        return str(self._store.get(NAMESPACE, key).value["text"])
