"""The document side of retrieval: which spans of a text are indexed, and their vectors."""

from __future__ import annotations

import re

import numpy as np

from memkit.bank import Bank
from memkit.document import Document, Span, sentences
from memkit.router.embedders import Embedder, Vectors
from memkit.text.dialogue_acts import extract_statements

QUESTION_WEIGHT = 0.25  # of a text that only asks: too little to be about a question
MAX_QUESTION = 2000  # characters; a longer text is never taken for a mere question
_CANNOT_TELL = re.compile(
    r"(?:sorry|i['’]?m (?:sorry|afraid)|i am (?:sorry|afraid)|i (?:do not|don['’]t) know)\b", re.I
)
_ENTRY_PREFIX = re.compile(r"\d{4}-\d\d-\d\d [^:\n]*: ")  # the date and speaker of a running memory's entry


def index(document: Document, embedder: Embedder) -> tuple[list[Span], Vectors]:
    """A document's spans and their vectors, float32 ``[spans, dim]``.

    Spans are chunks, and single sentences too where the embedder gains by them. A text that only asks, or
    says that it cannot tell, weighs `QUESTION_WEIGHT`.
    """
    spans = document.chunks()
    if embedder.by_sentence:
        known = set(spans)
        spans += [span for span in sentences(document.text) if span not in known]
    vectors = embedder.passages([document.text[s.start : s.end] for s in spans])
    return spans, _weighted(vectors, document.text)


def index_entry(document: Document, embedder: Embedder) -> tuple[list[Span], Vectors]:
    """As `index`, for one line of a running memory, whose date and speaker are no part of what it says."""
    spans, vectors = index(document, embedder)
    said = _ENTRY_PREFIX.sub("", document.text, count=1)
    return spans, vectors if said == document.text else _weighted(vectors, said)


def _weighted(vectors: Vectors, text: str) -> Vectors:
    """A question answers nothing, and would otherwise rank above the statement that does."""
    if len(text) > MAX_QUESTION or (extract_statements(text) and not _CANNOT_TELL.match(text)):
        return vectors
    return vectors * np.float32(QUESTION_WEIGHT)


def refresh(bank: Bank, owner: str, embedder: Embedder) -> int:
    """Embed an owner's memories again where their vectors are another embedder's; how many there are."""
    known = bank.embedder(owner)
    if known is None or known == embedder.name:
        return 0
    return bank.reembed(
        owner,
        embedder.name,
        lambda document: index(document, embedder),
        lambda document: index_entry(document, embedder),
    )
