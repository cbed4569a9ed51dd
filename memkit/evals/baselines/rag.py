"""Text RAG at the token budget of an artifact: the sentences most similar to the question, as text."""

from __future__ import annotations

from memkit.document import sentences
from memkit.engine.transformers.engine import TransformersEngine
from memkit.router.embedders import Embedder


class Passages:
    """The sentences of a document, embedded once for all questions."""

    def __init__(self, engine: TransformersEngine, embedder: Embedder, document: str) -> None:
        self._engine, self._embedder = engine, embedder
        self._texts = [document[s.start : s.end] for s in sentences(document)]
        self._costs = [engine.count_tokens(text) for text in self._texts]
        self._embedded = embedder.passages(self._texts)

    def best(self, question: str, budget: int) -> str:
        """The most similar sentences that fit ``budget`` tokens, in the document's order.

        If the best sentence alone exceeds the budget, it is truncated.
        """
        similarity = self._embedded @ self._embedder.question(question)
        chosen, room = list[int](), budget
        for index in sorted(range(len(self._texts)), key=lambda i: (-float(similarity[i]), i)):
            if self._costs[index] <= room:
                chosen.append(index)
                room -= self._costs[index]
            elif not chosen:
                return self._engine.decode(self._engine.encode(self._texts[index])[:budget])
        return " ".join(self._texts[i].strip() for i in sorted(chosen))
