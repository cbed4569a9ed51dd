"""Count floating-point operations."""

from __future__ import annotations

from typing import Any

from memkit.models.kv_shape import kv_shape


class FlopMeter:
    """Adds up the FLOPs of forward passes of a Llama-like model in ``total``.

    Two operations per weight and token, plus four per layer, hidden unit, token and attended token.
    Embedding look-ups are free; the output layer is counted for every token.
    """

    def __init__(self, model: Any) -> None:
        config = model.config
        embedded = int(model.get_input_embeddings().weight.numel())
        head = int(model.get_output_embeddings().weight.numel())
        tied = bool(config.tie_word_embeddings)
        self.weights: int = sum(p.numel() for p in model.parameters()) - embedded + (head if tied else 0)
        self.attention = 4 * int(config.num_hidden_layers) * int(config.hidden_size)
        self.total = 0.0

    def forward_flops(self, tokens: int, attended: float) -> float:
        """The FLOPs of a forward pass over ``tokens`` after ``attended`` earlier ones."""
        return tokens * (2.0 * self.weights + self.attention * (attended + tokens / 2))

    def forward(self, tokens: int, attended: int) -> None:
        """Count a forward pass over ``tokens`` after ``attended`` earlier ones."""
        self.total += self.forward_flops(tokens, attended)


def kv_bytes(model: Any, tokens: int) -> int:
    """The size in bytes of the float32 keys and values of ``tokens`` tokens."""
    shape = kv_shape(model.config)
    return 2 * 4 * shape.layers * shape.heads * shape.size * tokens
