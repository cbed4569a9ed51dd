"""The shape of a model's key-value cache and its reach, from its configuration. Importable without torch."""

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


def sliding(config: Any) -> bool:
    """Whether a model has layers that attend to a window of the last tokens."""
    layer_types = getattr(config, "layer_types", None)
    if layer_types:
        return "sliding_attention" in layer_types
    return bool(getattr(config, "sliding_window", None))
