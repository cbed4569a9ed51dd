"""Keys can be moved where the model rotates them as Llama does; other rotations are found by measuring."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    Qwen3Config,
    SmolLM3Config,
)

from memkit.models.rotary import require_movable

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}


def check(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> None:
    torch.manual_seed(0)
    require_movable(AutoModelForCausalLM.from_config(config, dtype=dtype).eval())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "config",
    [LlamaConfig(**SIZES), Qwen3Config(**SIZES, head_dim=8), GemmaConfig(**SIZES, head_dim=8)],
    ids=lambda config: config.model_type,
)
def test_the_usual_rotation(config: PreTrainedConfig, dtype: torch.dtype) -> None:
    check(config, dtype)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CohereConfig(**SIZES), "another way"),  # rotates neighbouring numbers
        (SmolLM3Config(**SIZES, no_rope_layer_interval=2), "layer"),  # leaves layers out
        (GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=64), "no rotary"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_other_positions_are_refused(config: PreTrainedConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(config)
