"""The shape of a model's key-value cache, from its configuration. Importable without torch."""

from __future__ import annotations

from typing import Any, NamedTuple


class KVShape(NamedTuple):
    """The layers of a cache, the KV heads of each, and the numbers of a key."""

    layers: int
    heads: int
    size: int


def kv_shape(config: Any) -> KVShape:
    """The shape for a transformers ``config`` of a decoder."""
    queries = int(config.num_attention_heads)
    heads = int(getattr(config, "num_key_value_heads", None) or queries)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // queries)
    return KVShape(int(config.num_hidden_layers), heads, size)
