"""A check on a few tokens that a model's ragged attention is the model's own attention."""

from __future__ import annotations

import torch

from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.ragged import RaggedKV, with_ragged_attention
from memkit.models.loading import LoadedModel

TOKENS = 6  # of a prefix, half of which are a header
QUERIES = ([5, 4, 3], [2])  # token ids, of different lengths
TOLERANCE = 0.02  # of the logits' standard deviation
ROUNDED = 0.3  # the same for numbers of 16 bits


@torch.no_grad()
def unequal(base: LoadedModel) -> str:
    """Why a model answers differently behind the same keys in ragged form, or "".

    Some models give their attention more than keys, values and one mask: sinks, or a mask for every head.
    """
    try:
        dense = kv_cache.prefill(base.model, list(range(1, TOKENS + 1)))
        half = TOKENS // 2
        ragged = RaggedKV.of(dense.slice(half)).after(dense.slice(0, half))
        reader, pairs = with_ragged_attention(base.model), [(query, [1, 2]) for query in QUERIES]
        own, ours = (
            kv_cache.answer_logits(model, prefix, kv_cache.AnswerBatch.of(pairs, prefix, base.model.device))
            for model, prefix in ((base.model, dense), (reader, ragged))
        )
    except Exception as error:  # of the model's own code
        return f"its attention does not work with {type(error).__name__}: {error}"
    limit = TOLERANCE if base.model.dtype == torch.float32 else ROUNDED
    if not float((own - ours).abs().max()) <= limit * float(own.std()):
        return "its attention takes more into account than keys, values and one mask"
    return ""
