"""`MemkitRetriever`: passages of a user's memories."""

from __future__ import annotations

from typing import Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field, SkipValidation

from memkit.integrations.langchain.messages import clean
from memkit.memory import Memory


class MemkitRetriever(BaseRetriever):
    """Retrieves the best passage of each of the ``k`` best memories of ``memory``'s user.

    The ``metadata`` of a passage has ``memory_id``, ``title``, ``start`` and ``end`` (characters of the
    source) and ``score``.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    memory: SkipValidation[Memory] = Field(default_factory=Memory, exclude=True)
    k: int = Field(default=4, ge=1)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return [
            Document(
                hit.text,
                id=f"{hit.memory.id}:{hit.span.start}-{hit.span.end}",
                metadata={
                    "memory_id": hit.memory.id,
                    "title": hit.memory.title,
                    "start": hit.span.start,
                    "end": hit.span.end,
                    "score": hit.score,
                },
            )
            for hit in self.memory.search(clean(query), kwargs.get("k", self.k))
        ]
