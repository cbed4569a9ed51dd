"""Worker for mem0 with FAISS and an OpenAI-compatible server, run by `loop` in an environment with mem0."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from mem0 import Memory
from mem0.embeddings.openai import OpenAIEmbedding
from mem0.llms.openai import OpenAILLM

USER = "bench"


class TwoSided(OpenAIEmbedding):
    """Passes the type of input (query or passage) to the server's embedder, and measures its time."""

    ms = 0.0

    def embed(self, text: str, memory_action: Literal["add", "search", "update"] | None = None) -> Any:
        started = time.perf_counter()
        side = "query" if memory_action == "search" else "passage"
        response = self.client.embeddings.create(
            input=[text], model=self.config.model, encoding_format="float", extra_body={"input_type": side}
        )
        self.ms += (time.perf_counter() - started) * 1000
        return response.data[0].embedding


class WithoutJsonMode(OpenAILLM):
    """Omits ``response_format``, which the server refuses; mem0 also parses JSON in plain text."""

    def generate_response(self, messages: Any, response_format: Any = None, **more: Any) -> Any:
        return super().generate_response(messages, **more)


class Worker:
    """One user's memories in the folder ``data``; with ``infer`` the model extracts them from texts.

    ``llm`` and ``embedder``, with vectors ``[dim]``, are models of the server at ``url``.
    """

    def __init__(self, url: str, key: str, llm: str, embedder: str, dim: int, data: str, infer: bool) -> None:
        server = {"openai_base_url": f"{url}/v1", "api_key": key}
        store = {
            "path": str(Path(data, "faiss")),
            "embedding_model_dims": dim,
            "distance_strategy": "inner_product",
        }
        self._infer = infer
        self._memory = Memory.from_config(
            {
                "vector_store": {"provider": "faiss", "config": store},
                "embedder": {"provider": "openai", "config": {**server, "model": embedder}},
                "llm": {"provider": "openai", "config": {**server, "model": llm, "temperature": 0.0}},
                "history_db_path": str(Path(data, "history.db")),
            }
        )
        self._embedder = TwoSided(self._memory.embedding_model.config)
        self._memory.embedding_model = self._embedder
        self._memory.llm = WithoutJsonMode(self._memory.llm.config)

    def remember(self, text: str) -> int:
        """Remember a text; returns the number of memories made from it."""
        return len(self._memory.add(text, user_id=USER, infer=self._infer)["results"])

    def search(self, question: str, k: int) -> dict[str, Any]:
        """The best ``texts``, and the milliseconds for embedding the question."""
        before = self._embedder.ms
        results = self._memory.search(question, filters={"user_id": USER}, top_k=k)["results"]
        return {"texts": [each["memory"] for each in results], "embed_ms": self._embedder.ms - before}
