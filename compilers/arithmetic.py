"""Counting floating-point operations."""

from __future__ import annotations

from typing import Any


class FlopMeter:
    """Adds up the arithmetic of forward passes of a Llama-like model.

    Two operations per weight and token, plus attention: four per layer, hidden unit, token and
    token attended to. Embedding look-ups are free; the output layer is counted for every token.
    """

    def __init__(self, model: Any) -> None:
        config = model.config
        embedded = model.get_input_embeddings().weight.numel()
        head = model.get_output_embeddings().weight.numel()
        tied = bool(config.tie_word_embeddings)
        self.weights = sum(p.numel() for p in model.parameters()) - embedded + (head if tied else 0)
        self.attention = 4 * int(config.num_hidden_layers) * int(config.hidden_size)
        self.total = 0.0

    def forward(self, tokens: int, attended: int) -> None:
        """Count ``tokens`` that each attend to about ``attended`` earlier ones and to half of themselves."""
        self.total += tokens * (2.0 * self.weights + self.attention * (attended + tokens / 2))
