"""Read a model and its tokenizer from files, with transformers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from memkit.errors import ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@contextmanager
def readable(what: str, advice: str = "") -> Iterator[None]:
    """Turn what transformers raises for files that it cannot read into a `ModelError` about ``what``."""
    try:
        yield
    except (ImportError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"cannot load {what}: {str(error).rstrip('. ')}{advice}") from error


def read_model(source: str, dtype: str, options: Mapping[str, Any]) -> PreTrainedModel:
    """A model on the CPU; ``source`` is a folder or a hub id, ``options`` go to ``from_pretrained``."""
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=DTYPES[dtype], **options)
    if getattr(model, "hf_quantizer", None) is not None:
        model.hf_quantizer = None  # dequantized on load; else the model refuses to be saved or copied
    loaded: PreTrainedModel = model
    return loaded


def read_tokenizer(source: str, options: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """A tokenizer that does not warn of texts longer than the window: memkit refuses what is too long itself,
    and reads documents in parts."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, **options)
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer
