"""Text RAG at the token budget of an artifact: the sentences most similar to the question, as text."""

from __future__ import annotations

from memkit.document import sentences
from memkit.engine.transformers.engine import TransformersEngine
from memkit.router.embedders import Embedder


def passages(
    engine: TransformersEngine, embedder: Embedder, document: str, question: str, budget: int
) -> str:
    """The most similar sentences that fit ``budget`` tokens, in the document's order.

    If the best sentence alone exceeds the budget, it is truncated.
    """
    texts = [document[s.start : s.end] for s in sentences(document)]
    similarity = embedder.passages(texts) @ embedder.question(question)
    chosen, room = list[int](), budget
    for index in sorted(range(len(texts)), key=lambda i: (-float(similarity[i]), i)):
        cost = engine.count_tokens(texts[index])
        if cost <= room:
            chosen.append(index)
            room -= cost
        elif not chosen:
            ids = engine.encode(texts[index])[:budget]
            return engine.decode(ids)
    return " ".join(texts[i].strip() for i in sorted(chosen))
