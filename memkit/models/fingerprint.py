"""Fingerprints: what must agree for an artifact to mean the same thing to a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256, in hex, over what must agree for an artifact to mean the same thing."""
    tensors = sorted(model.state_dict().items())
    return fingerprint_of(model.config.to_dict(), ((n, t.dtype, t) for n, t in tensors), tokenizer)


def fingerprint_of(
    config: Mapping[str, Any],
    tensors: Iterable[tuple[str, torch.dtype, torch.Tensor]],
    tokenizer: PreTrainedTokenizerBase,
) -> str:
    """The fingerprint of a model that is given in parts: all its ``tensors``, of any shape, in the order of
    their names, each with the type of numbers in which the model holds it."""
    keys = (
        "model_type hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
        "intermediate_size rope_theta rope_scaling rope_parameters rms_norm_eps vocab_size hidden_act"
    ).split()
    digest = hashlib.sha256(
        json.dumps({k: config.get(k) for k in keys}, sort_keys=True, default=str).encode()
    )
    for name, dtype, tensor in tensors:
        digest.update(f"{name}:{dtype}:{tuple(tensor.shape)}".encode())
        raw: Any = tensor.detach().to(dtype).cpu().contiguous().view(torch.uint8).numpy()
        digest.update(memoryview(raw).cast("B"))
    digest.update(_vocabulary(tokenizer))
    return digest.hexdigest()


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256, in hex, over a tokenizer's vocabulary and chat template."""
    return hashlib.sha256(_vocabulary(tokenizer)).hexdigest()


def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> bytes:
    vocabulary = sorted(tokenizer.get_vocab().items())
    return json.dumps([vocabulary, tokenizer.chat_template], sort_keys=True).encode()
