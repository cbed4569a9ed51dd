"""Models with well-known architectures and random weights, to measure cost but not quality."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from memkit.errors import ModelError

PREFIX = "shape:"
_WINDOW = 131_072  # positions
_QWEN25_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152_064,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "rms_norm_eps": 1e-6,
}
_SMOLLM2_135M = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49_152,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
    "tie_word_embeddings": True,
}
_TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 8192,
}
SHAPES: dict[str, tuple[type[PreTrainedModel], type[Any], dict[str, Any]]] = {
    "qwen2.5-7b": (Qwen2ForCausalLM, Qwen2Config, _QWEN25_7B),
    "smollm2-135m": (LlamaForCausalLM, LlamaConfig, _SMOLLM2_135M),
    "tiny": (LlamaForCausalLM, LlamaConfig, _TINY),
}


def build(name: str, device: str, dtype: torch.dtype) -> PreTrainedModel:
    """A model with the architecture ``name`` (without `PREFIX`) and random weights from seed 0.

    Raises `ModelError` for an unknown name.
    """
    if name not in SHAPES:
        raise ModelError(
            f"there is no shape {name!r}; known are {', '.join(PREFIX + each for each in SHAPES)}"
        )
    model, config, values = SHAPES[name]
    with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []), torch.device(device):
        torch.manual_seed(0)
        built: PreTrainedModel = model._from_config(
            config(max_position_embeddings=_WINDOW, **values), dtype=dtype
        )
    return built
