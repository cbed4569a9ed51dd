"""A check on a few tokens that a model's ragged attention is the model's own attention."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.ragged import RaggedKV

TOKENS = 6  # of a prefix, half of which are a header
QUERIES = ([5, 4, 3], [2])  # token ids, of different lengths
TOLERANCE = 0.02  # of the logits' standard deviation
ROUNDED = 0.3  # the same for numbers of 16 bits


@torch.no_grad()
def unequal(model: PreTrainedModel, reader: PreTrainedModel) -> str:
    """Why a model's ``reader``, of `with_ragged_attention`, answers differently behind the same keys, or "".

    Some models give their attention more than keys, values and one mask: sinks, or a mask for every head.
    """
    try:
        dense = kv_cache.prefill(model, list(range(1, TOKENS + 1)))
        half = TOKENS // 2
        ragged = RaggedKV.of(dense.slice(half)).after(dense.slice(0, half))
        pairs = [(query, [1, 2]) for query in QUERIES]
        own, ours = (
            kv_cache.answer_logits(each, prefix, kv_cache.AnswerBatch.of(pairs, prefix, model.device))
            for each, prefix in ((model, dense), (reader, ragged))
        )
    except Exception as error:  # of the model's own code
        return f"its attention does not work with {type(error).__name__}: {error}"
    limit = TOLERANCE if model.dtype == torch.float32 else ROUNDED
    if not float((own - ours).abs().max()) <= limit * float(own.std()):
        return "its attention takes more into account than keys, values and one mask"
    return ""
