"""The forms in which a memory of rows is stored: ragged, or the same number of rows in every head."""

from __future__ import annotations

import torch

from memkit.artifact.manifest import Kind
from memkit.artifact.quantization import Stored, Tensors, quantized
from memkit.artifact.ragged import KIND, ragged_tensors
from memkit.compilers.compact.config import Form
from memkit.engine.transformers.ragged import RaggedKV


def kind_of(form: Form) -> Kind:
    """The kind of artifact."""
    return KIND if form == "ragged" else "kv"


def tensors_of(memory: RaggedKV, form: Form, stored: Stored) -> Tensors:
    """The tensors of the artifact. In the capped form every head has as many rows, without biases."""
    if form == "ragged":
        heads = [[(head.keys, head.values, head.bias) for head in layer] for layer in memory.layers]
        return ragged_tensors(heads, stored)
    keys = torch.stack([torch.stack([head.keys for head in layer]) for layer in memory.layers])
    values = torch.stack([torch.stack([head.values for head in layer]) for layer in memory.layers])
    return quantized({"keys": keys.detach().cpu(), "values": values.detach().cpu()}, stored)


def metrics_of(memory: RaggedKV) -> dict[str, int]:
    """What a manifest says of the rows: their number, and that of the head with the most."""
    counts = [len(head) for heads in memory.layers for head in heads]
    return {"rows": sum(counts), "longest_head": max(counts)}
