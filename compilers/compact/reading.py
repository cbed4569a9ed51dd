"""A text that is read in chunks, behind a header or the memory of an earlier part of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.ragged import RaggedKV


@dataclass(frozen=True)
class Reading:
    """The keys and values of a text so far.

    ``cache`` holds ``start`` tokens of a header, then the text's; None if it is empty. A ``memory`` lies in
    front of both. ``norms`` ``[layer]`` is the median norm of the hidden states that enter each layer.
    """

    cache: kv_cache.KVCache | None
    start: int
    memory: RaggedKV | None = None
    norms: Tensor | None = None

    @property
    def context(self) -> int:
        """Tokens of the text."""
        return (self.cache.tokens if self.cache else 0) - self.start

    @property
    def tokens(self) -> int:
        """Positions in front of the next token."""
        return (self.memory.tokens if self.memory else 0) + self.start + self.context

    def inputs(self, ids: Sequence[int], device: torch.device) -> dict[str, Any]:
        """Arguments of a forward pass over ``ids`` behind the text."""
        positions = torch.arange(self.tokens, self.tokens + len(ids), device=device)[None]
        return {
            "input_ids": torch.tensor([list(ids)], device=device),
            "position_ids": positions,
            "past_key_values": self.cache.cache() if self.cache else DynamicCache(),
            "use_cache": True,
            **(self.memory.inputs() if self.memory else {}),
        }

    @torch.no_grad()
    def extended(self, model: PreTrainedModel, ids: Sequence[int], chunk: int) -> Iterator[Reading]:
        """Read ``ids`` behind the text, ``chunk`` tokens at a time; yields the reading after each."""
        reading = self
        for part in kv_cache.chunked(ids, chunk):
            arguments = reading.inputs(part, model.device)
            out = model.base_model(**arguments, output_hidden_states=reading.norms is None)
            norms = reading.norms
            if norms is None:
                norms = torch.stack([h[0].float().norm(dim=-1).median() for h in out.hidden_states[:-1]])
            cache = kv_cache.KVCache.of(arguments["past_key_values"])
            reading = replace(reading, cache=cache, norms=norms)
            yield reading
