"""Fingerprint a model in a folder without loading it: its tensors are read one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from memkit.errors import ModelError
from memkit.models.loading import DTYPES, fingerprint_of, load, locate, tokenizer_digest

INDEX, WEIGHTS = "model.safetensors.index.json", "model.safetensors"


def fingerprint_at(name: str, dtype: torch.dtype) -> tuple[str, str]:
    """The fingerprint of a model and the digest of its tokenizer, equal to those of a loaded model.

    ``name`` is one for `memkit.models.loading.load`. A folder with safetensors files is read tensor by
    tensor; anything else is loaded. Raises `ModelError` when the model cannot be read or for another
    ``dtype`` than artifacts support.
    """
    known = {kind: word for word, kind in DTYPES.items()}
    if dtype not in known:
        raise ModelError(f"artifacts belong to models in {', '.join(DTYPES)}, this server runs {dtype}")
    folder, options = locate(name)
    files = {} if options else _files(Path(folder))
    if not files:
        base = load(name, "cpu", known[dtype])
        return base.fingerprint, tokenizer_digest(base.tokenizer)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config: Any = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    stored = _stored(model, files)
    if stored is None:
        base = load(name, "cpu", known[dtype])
        return base.fingerprint, tokenizer_digest(base.tokenizer)
    config = model.config.to_dict()
    return fingerprint_of(config, _tensors(model, stored, files), tokenizer), tokenizer_digest(tokenizer)


def _files(folder: Path) -> dict[str, Path]:
    """The file of each tensor; empty for a folder without safetensors files."""
    from safetensors import safe_open

    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text())["weight_map"]
        return {name: folder / str(file) for name, file in index.items()}
    if not (folder / WEIGHTS).is_file():
        return {}
    with safe_open(folder / WEIGHTS, "pt") as file:
        return dict.fromkeys(file.keys(), folder / WEIGHTS)


def _stored(model: Any, files: dict[str, Path]) -> dict[str, str] | None:
    """The stored name of each of the model's tensors (tied ones are stored once); None if one is missing."""
    model.tie_weights()
    same = dict[int, str]()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in files:
            same.setdefault(id(parameter), name)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names = dict[str, str]()
    for name in model.state_dict():
        where = name if name in files else same.get(id(parameters.get(name)))
        if where is None:
            return None
        names[name] = where
    return names


def _tensors(
    model: Any, stored: dict[str, str], files: dict[str, Path]
) -> Iterator[tuple[str, torch.dtype, torch.Tensor]]:
    from safetensors import safe_open

    for name, empty in sorted(model.state_dict().items()):
        with safe_open(files[stored[name]], "pt") as file:
            yield name, empty.dtype, file.get_tensor(stored[name])
