"""Index documents for retrieval: choose spans and embed them."""

from __future__ import annotations

import re

import numpy as np

from memkit.bank import Bank
from memkit.document import Document, Span, sentences
from memkit.router.embedders import Embedder, Vectors
from memkit.text.dialogue_acts import extract_statements

QUESTION_WEIGHT = 0.25  # of a text that only asks, so that it stays below every gate's threshold
MAX_QUESTION = 2000  # characters; a longer text always counts as a statement
_NO_ANSWER = re.compile(
    r"(?:sorry|i['’]?m (?:sorry|afraid)|i am (?:sorry|afraid)|i (?:do not|don['’]t) know)\b", re.I
)
_ENTRY_PREFIX = re.compile(r"\d{4}-\d\d-\d\d [^:\n]*: ")  # date and speaker of a running memory's entry


def index(document: Document, embedder: Embedder) -> tuple[list[Span], Vectors]:
    """A document's spans and their vectors, float32 ``[span, dim]``.

    Spans are the document's chunks, and its sentences too if ``embedder.by_sentence``. The vectors of a
    text that only asks, or only says that it has no answer, are scaled by `QUESTION_WEIGHT`.
    """
    spans = document.chunks()
    if embedder.by_sentence:
        chunks = set(spans)
        spans += [span for span in sentences(document.text) if span not in chunks]
    vectors = embedder.passages([document.text[s.start : s.end] for s in spans])
    return spans, _weigh(vectors, document.text)


def index_entry(document: Document, embedder: Embedder) -> tuple[list[Span], Vectors]:
    """As `index`, for one entry of a running memory; its date and speaker do not make it a statement."""
    spans, vectors = index(document, embedder)
    content = _ENTRY_PREFIX.sub("", document.text, count=1)
    return spans, vectors if content == document.text else _weigh(vectors, content)


def _weigh(vectors: Vectors, text: str) -> Vectors:
    """Scale down the vectors of a question: it would rank above the statement that answers it."""
    if len(text) > MAX_QUESTION or (extract_statements(text) and not _NO_ANSWER.match(text)):
        return vectors
    return vectors * np.float32(QUESTION_WEIGHT)


def refresh(bank: Bank, owner: str, embedder: Embedder) -> int:
    """Embed an owner's memories again if their vectors come from another embedder.

    Returns the number of memories that were embedded again.
    """
    current = bank.embedder(owner)
    if current is None or current == embedder.name:
        return 0
    return bank.reembed(
        owner,
        embedder.name,
        lambda document: index(document, embedder),
        lambda document: index_entry(document, embedder),
    )
