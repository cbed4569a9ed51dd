"""The systems that remember documents and answer questions: memkit, plain RAG, and mem0.

All answers come from one engine in this process, and all vectors from one embedder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from memkit.bench.http_server import LiveServer
from memkit.bench.peers.figures import Timing, stopwatch
from memkit.bench.peers.process import Environment, Peer
from memkit.document import Document
from memkit.engine.base import Request
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import MemkitError
from memkit.evals.timing import nbytes
from memkit.memory import Memory
from memkit.router.embedders import Embedder
from memkit.router.indexing import index
from memkit.router.passages import text_budget

TOKENS = 32  # of an answer
TOPS = (1, 3)  # passages in a prompt, for systems that leave that open
TENANT = "bench"
MEM0 = Path(__file__).with_name("mem0_worker.py")


@dataclass(frozen=True)
class PeerAnswer:
    """One answer and its times."""

    variant: str
    text: str
    search_ms: float
    answer_ms: float
    cpu_ms: float  # processor time of search and answer
    embed_ms: float | None = None  # included in the search; None if unknown
    latent: bool = False  # answered from an artifact


class System(Protocol):
    """A system under test, in its own folder."""

    name: str

    def remember(self, text: str) -> tuple[int, Timing]:
        """The number of memories made from a document, and the time until it can be asked about.

        Raises `MemkitError` for a document that cannot be remembered.
        """

    def prepare(self) -> list[float]:
        """Compile or index after all documents are remembered; returns the seconds for each document."""

    def ask(self, question: str) -> Iterator[PeerAnswer]:
        """Answers, one for each variant."""

    def close(self) -> int:
        """Close the system; returns its size on disk in bytes."""


class Memkit:
    """memkit: the text route, or with a ``compiler`` the route that its gate chooses."""

    def __init__(
        self,
        folder: Path,
        engine: TransformersEngine,
        compiler: str = "",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = f"memkit, {compiler or 'text'}"
        self._folder, self._compiles = folder, bool(compiler)
        self._memory = Memory(
            folder, engine=engine, embedder="lexical", compiler=compiler or "lcc", options=options
        )

    def remember(self, text: str) -> tuple[int, Timing]:
        elapsed = stopwatch()
        self._memory.remember(text, compile=False)
        return 1, elapsed()

    def prepare(self) -> list[float]:
        """Compile; a memory whose artifact is refused is answered from its text."""
        seconds = list[float]()
        for info in self._memory.list_memories() if self._compiles else ():
            elapsed = stopwatch()
            try:
                self._memory.compile(info.id)
            except MemkitError:
                continue
            seconds.append(elapsed().ms / 1000)
        return seconds

    def ask(self, question: str) -> Iterator[PeerAnswer]:
        elapsed = stopwatch()
        answer = self._memory.ask(question, max_tokens=TOKENS)
        (ms, busy), search = elapsed(), answer.trace.route_ms
        yield PeerAnswer("", answer.text, search, ms - search, busy, latent=answer.route == "latent")

    def close(self) -> int:
        self._memory.close()
        return nbytes(self._folder)


class Reader:
    """Answers questions from given passages."""

    def __init__(self, engine: TransformersEngine) -> None:
        self._engine = engine

    def answers(
        self, question: str, passages: Sequence[str], search: Timing, embed_ms: float | None = None
    ) -> Iterator[PeerAnswer]:
        """An answer from the best passages, for each of `TOPS`."""
        for top in TOPS:
            elapsed = stopwatch()
            text = self._read(question, passages[:top])
            read = elapsed()
            busy = search.cpu_ms + read.cpu_ms
            yield PeerAnswer(f"top {top}", text, search.ms, read.ms, busy, embed_ms)

    def _read(self, question: str, passages: Sequence[str]) -> str:
        """An answer from as many passages as memkit's own text route has room for."""
        room, chosen = text_budget(self._engine, question, TOKENS), list[str]()
        for passage in passages:
            room -= self._engine.count_tokens(passage)
            if room < 0:
                break
            chosen.append(passage.strip())
        request = Request(question, context="\n".join(chosen) or None, max_tokens=TOKENS)
        (completion,) = self._engine.generate([request])
        return completion.text


class Rag:
    """Plain RAG: memkit's chunks and embedder, exact search by FAISS.

    Index and texts are rewritten after every document, without fsync, as short programs do.
    """

    name = "rag"

    def __init__(self, folder: Path, reader: Reader, embedder: Embedder) -> None:
        import faiss

        self._faiss, self._folder, self._reader, self._embedder = faiss, folder, reader, embedder
        self._index, self._texts = faiss.IndexFlatIP(embedder.dim), list[str]()
        folder.mkdir()

    def remember(self, text: str) -> tuple[int, Timing]:
        elapsed = stopwatch()
        spans, vectors = index(Document(text), self._embedder)
        self._index.add(vectors)
        self._texts += [text[span.start : span.end] for span in spans]
        self._faiss.write_index(self._index, str(self._folder / "index.faiss"))
        (self._folder / "texts.json").write_text(json.dumps(self._texts))
        return len(spans), elapsed()

    def prepare(self) -> list[float]:
        return []

    def ask(self, question: str) -> Iterator[PeerAnswer]:
        elapsed = stopwatch()
        vector = self._embedder.question(question)
        _, rows = self._index.search(vector[None], min(max(TOPS), len(self._texts)))
        texts = [self._texts[i] for i in rows[0]]
        yield from self._reader.answers(question, texts, elapsed())

    def close(self) -> int:
        return nbytes(self._folder)


class Mem0:
    """mem0 with the model and embedder of a memkit server; with ``infer`` the model extracts memories.

    The key's tenant has no memories, so the server's model answers without any.
    """

    def __init__(
        self, folder: Path, environment: Environment, server: LiveServer, reader: Reader, *, infer: bool
    ) -> None:
        self.name = f"mem0 {environment.version}{', infer' if infer else ''}"
        self._reader, self._data = reader, folder / "data"
        self._data.mkdir(parents=True)
        embedder = server.services.root.router.embedder
        settings = {
            "url": server.url,
            "key": server.key(TENANT),
            "llm": server.services.config.model_id,
            "embedder": embedder.name,
            "dim": embedder.dim,
            "data": str(self._data),
            "infer": infer,
        }
        self._peer = Peer(environment.python, MEM0, folder, settings)

    def remember(self, text: str) -> tuple[int, Timing]:
        count, timing = self._call("remember", text=text)
        return int(count), timing

    def prepare(self) -> list[float]:
        return []

    def ask(self, question: str) -> Iterator[PeerAnswer]:
        results, timing = self._call("search", question=question, k=max(TOPS))
        yield from self._reader.answers(question, results["texts"], timing, results["embed_ms"])

    def _call(self, method: str, **arguments: Any) -> tuple[Any, Timing]:
        """The result and time of a method; the processor time includes that of the server in this process."""
        elapsed = stopwatch()
        called = self._peer.call(method, **arguments)
        return called.result, Timing(called.took.ms, called.took.cpu_ms + elapsed().cpu_ms)

    def close(self) -> int:
        self._peer.close()
        return nbytes(self._data)
