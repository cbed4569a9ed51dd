"""KV-cache pruning by kvpress (the extra ``eval``), at the token budget of an artifact.

References
    Expected Attention (Devoto et al., 2025), ChunkKV (Liu et al., 2025), SnapKV (Li et al., 2024).

Departures, all in favour of the presses
    - The prompt's header, which artifacts have too, is never pruned and does not count towards the budget.
    - Pruned keys are re-rotated to consecutive positions, like an artifact's.
    - SnapKV's window of 64 tokens is shortened to a quarter of a small budget.
    - ChunkKV ranks chunks as published, and truncates the last one to meet the budget exactly.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from memkit.engine.transformers import kv_cache
from memkit.errors import MissingExtraError, install_line
from memkit.models.chat import text_ids
from memkit.models.loading import LoadedModel

PRESSES = ("expected-attention", "chunkkv", "snapkv")
CHUNK = 20  # tokens, ChunkKV's default


def compress_with(base: LoadedModel, press: str, context: str, budget: int) -> kv_cache.KVCache:
    """The KV of header and context, pruned to |header| + ``budget`` tokens at consecutive positions.

    Raises `MissingExtraError` when kvpress is absent.
    """
    try:
        import kvpress
    except ImportError as error:
        raise MissingExtraError("kvpress", install_line("eval")) from error
    header = len(base.chat.header)
    ids = [*base.chat.header, *text_ids(base.tokenizer, context)]
    kept = min(header + budget, len(ids))
    scorer = _scorer(kvpress, press, max(min(64, budget // 4), 1))
    # The added half prevents a rounding error from dropping one token too many.
    chosen = _within(kvpress, scorer, header, CHUNK if press == "chunkkv" else 1)(
        compression_ratio=1 - (kept + 0.5) / len(ids) if kept < len(ids) else 0.0
    )
    cache = kv_cache.KVCache((), ()).cache()
    tokens = torch.tensor([ids], device=base.model.device)
    with torch.no_grad(), kvpress.KeyRerotationPress(press=chosen)(base.model):
        base.model.base_model(input_ids=tokens, past_key_values=cache, use_cache=True)
    return kv_cache.KVCache.of(cache)


def _scorer(kvpress: Any, press: str, window: int) -> Any:
    if press == "expected-attention":
        return kvpress.ExpectedAttentionPress()
    return kvpress.SnapKVPress(window_size=window)  # alone, or under ChunkKV


def _within(kvpress: Any, scorer: Any, header: int, chunk: int) -> Any:
    """A press class that ranks by ``scorer``, optionally by chunks, and keeps the header."""

    class Within(kvpress.ScorerPress):  # type: ignore[misc]  # kvpress has no types
        def post_init_from_model(self, model: Any) -> None:
            scorer.post_init_from_model(model)

        def score(self, *arguments: Any) -> Tensor:
            """Scores ``[batch, kv_heads, tokens]``."""
            scores: Tensor = scorer.score(*arguments)
            if chunk > 1:
                scores = chunked(scores, chunk)
            scores = scores.clone()
            scores[..., :header] = scores.max() + 1
            return scores

    return Within


def chunked(scores: Tensor, size: int) -> Tensor:
    """Every token's score is its chunk's, over all heads: ``[batch, kv_heads, tokens]`` (ChunkKV, §3)."""
    means = torch.cat(
        [part.mean((1, 2), keepdim=True).expand_as(part) for part in scores.split(size, -1)], -1
    )
    # Breaks ties within a chunk by the token's own score, so that only the last chunk is truncated.
    return means + 1e-6 * scores.mean(1, keepdim=True) / scores.abs().max().clamp(min=1e-12)
