"""KV-cache pruning by kvpress (the extra ``eval``), at the token budget of an artifact."""

from __future__ import annotations

from typing import Any

import torch

from memkit.engine import kv
from memkit.errors import MissingExtraError
from memkit.models.loading import LoadedModel

PRESSES = {
    "expected-attention": "ExpectedAttentionPress",
    "chunkkv": "ChunkKVPress",
    "snapkv": "SnapKVPress",
}


def pressed(base: LoadedModel, press: str, context: str, budget: int) -> kv.KV:
    """Header and context pruned to |header| + ``budget`` tokens, their keys moved together.

    Raises `MissingExtraError` when kvpress is absent.
    """
    try:
        import kvpress
    except ImportError as error:
        raise MissingExtraError("kvpress", "pip install 'memkit[eval]'") from error
    ids = [*base.chat.header, *base.tokenizer.encode(context, add_special_tokens=False)]
    kept = min(len(base.chat.header) + budget, len(ids))
    share = 1 - kept / len(ids)
    inner: Any = getattr(kvpress, PRESSES[press])
    made = (
        inner(press=kvpress.SnapKVPress(compression_ratio=share))
        if press == "chunkkv"
        else inner(compression_ratio=share)
    )
    cache = kv.KV((), ()).cache()
    tokens = torch.tensor([ids], device=base.model.device)
    # Pruned keys keep their old positions; the wrapper moves them to the first ones (as in RoPE, exactly).
    with torch.no_grad(), kvpress.KeyRerotationPress(press=made)(base.model):
        base.model.base_model(input_ids=tokens, past_key_values=cache, use_cache=True)
    return kv.KV.of(cache)
