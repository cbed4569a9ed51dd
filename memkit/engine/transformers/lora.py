"""LoRA adapters on a copy of a frozen model that shares all its weights.

An artifact of kind ``lora`` holds PEFT's adapter file: its tensors have PEFT's names
(``base_model.model.….q_proj.lora_A.weight``, ``[rank, in]``, and ``…lora_B.weight``, ``[out, rank]``), and
``metrics["adapter"]`` in its manifest is PEFT's ``adapter_config.json``. It occupies no tokens. `export_peft`
writes both as the files that PEFT, and servers such as SGLang, load.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memkit.artifact.format import JSON, Artifact, Manifest
from memkit.errors import ArtifactError

PREFIX = "base_model.model."  # PEFT wraps a model twice
AXES_A, AXES_B = ("rank", "in"), ("out", "rank")
WEIGHTS_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"


class AdaptedLinear(nn.Module):
    """A frozen linear layer with ``n`` independent adapters, each for an equal share of the batch's rows.

    ``a`` is ``[adapter, rank, in]``, ``b`` ``[adapter, out, rank]``. Rows of a batch are grouped by adapter:
    the first ``rows / n`` use the first one. ``dropout`` applies to the adapters' input.
    """

    def __init__(self, frozen: nn.Linear, a: Tensor, b: Tensor, scale: float) -> None:
        super().__init__()
        self.frozen, self.scale, self.dropout = frozen, scale, 0.0
        self.a, self.b = nn.Parameter(a), nn.Parameter(b)

    def forward(self, x: Tensor) -> Tensor:
        """``[rows, tokens, in]`` to ``[rows, tokens, out]``."""
        plain: Tensor = self.frozen(x)
        grouped = x.reshape(len(self.a), -1, x.shape[-1])
        if self.dropout:
            grouped = nn.functional.dropout(grouped, self.dropout, self.training)
        low = torch.bmm(grouped, self.a.to(x.dtype).transpose(1, 2))
        added = torch.bmm(low, self.b.to(x.dtype).transpose(1, 2))
        return plain + added.reshape(plain.shape) * self.scale


def shared_copy(model: nn.Module) -> Any:
    """A copy of the module tree that shares every weight and buffer with ``model``."""
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def targeted(model: nn.Module, targets: Sequence[str]) -> dict[str, nn.Linear]:
    """The linear layers whose names end with one of ``targets``, in the model's order.

    Raises `ValueError` for a target without a layer.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in targets
    }
    if absent := sorted(set(targets) - {name.rpartition(".")[2] for name in layers}):
        raise ValueError(f"{type(model).__name__} has no linear layer called {', '.join(absent)}")
    return layers


class Adapters:
    """``n`` independent adapters on one copy of a model, the ``student``; the original is unchanged.

    ``weights`` maps a layer's name to ``a`` ``[adapter, rank, in]`` and ``b`` ``[adapter, out, rank]``. Their
    product is scaled by ``alpha / rank``.
    """

    def __init__(
        self, model: nn.Module, weights: Mapping[str, tuple[Tensor, Tensor]], rank: int, alpha: float
    ) -> None:
        self.student = shared_copy(model)
        self.layers = dict[str, AdaptedLinear]()
        for name, (a, b) in weights.items():
            parent, _, last = name.rpartition(".")
            layer = AdaptedLinear(self.student.get_submodule(name), a, b, alpha / rank)
            setattr(self.student.get_submodule(parent), last, layer)
            self.layers[name] = layer

    @classmethod
    def fresh(
        cls, model: nn.Module, count: int, rank: int, alpha: float, targets: Sequence[str], seed: int
    ) -> Adapters:
        """``count`` adapters to train, all with the same random ``a`` (from ``seed``) and zeros for ``b``.

        Raises `ValueError` for a target without a layer.
        """
        random = torch.Generator().manual_seed(seed)
        device, weights = next(model.parameters()).device, dict[str, tuple[Tensor, Tensor]]()
        for name, layer in targeted(model, targets).items():
            bound = 1 / math.sqrt(layer.in_features)  # as PEFT does
            a = (torch.rand(1, rank, layer.in_features, generator=random) * 2 - 1) * bound
            a = a.expand(count, -1, -1).clone().to(device)
            weights[name] = (a, torch.zeros(count, layer.out_features, rank, device=device))
        return cls(model, weights, rank, alpha)

    @property
    def parameters(self) -> list[Tensor]:
        """The trainable tensors, each ``[adapter, …]``."""
        return [p for layer in self.layers.values() for p in (layer.a, layer.b)]

    def tensors(self, index: int, dtype: torch.dtype) -> dict[str, tuple[Tensor, tuple[str, ...]]]:
        """One adapter's tensors and their axes, under PEFT's names, for `Artifact.encode`."""
        tensors = dict[str, tuple[Tensor, tuple[str, ...]]]()
        for name, layer in self.layers.items():
            for key, weight, axes in (("A", layer.a, AXES_A), ("B", layer.b, AXES_B)):
                tensors[_tensor_name(name, key)] = (weight.detach()[index].to(dtype).cpu().contiguous(), axes)
        return tensors


def _tensor_name(layer: str, key: str) -> str:
    return f"{PREFIX}{layer}.lora_{key}.weight"


def adapter_config(rank: int, alpha: float, targets: Sequence[str]) -> dict[str, JSON]:
    """PEFT's ``adapter_config.json`` of a plain LoRA; it names no base model, whose path would travel."""
    return {
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted(targets),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }


def load_adapter(artifact: Artifact, model: nn.Module) -> Any:
    """A copy of ``model`` with the artifact's adapter.

    Raises `ArtifactError` unless the adapter is a plain LoRA whose tensors match the model's layers in name
    and shape and are finite floating-point numbers.
    """
    rank, alpha, targets = _read_config(artifact.manifest)
    try:
        layers = targeted(model, targets)
    except ValueError as error:
        raise ArtifactError(f"not a sound adapter: {error}") from error
    shapes = dict[str, tuple[int, int]]()
    for name, layer in layers.items():
        shapes[_tensor_name(name, "A")] = (rank, layer.in_features)
        shapes[_tensor_name(name, "B")] = (layer.out_features, rank)
    stored = {spec.name: spec for spec in artifact.manifest.tensors}
    if wrong := sorted(set(shapes) ^ set(stored)):
        kind = "lacks" if wrong[0] in shapes else "has the unknown tensor"
        raise ArtifactError(f"not a sound adapter: it {kind} {wrong[0]}")
    for name, shape in shapes.items():
        if stored[name].shape != shape:
            raise ArtifactError(
                f"not a sound adapter: {name} has the shape {list(stored[name].shape)}, not {list(shape)}"
            )
    first = next(model.parameters())

    def weight(name: str) -> Tensor:
        read = artifact.tensor(name)
        if not read.is_floating_point() or not bool(read.isfinite().all()):
            raise ArtifactError(f"not a sound adapter: {name} holds what is no finite number")
        return read.to(first.device, first.dtype, copy=True)[None]

    weights = {n: (weight(_tensor_name(n, "A")), weight(_tensor_name(n, "B"))) for n in layers}
    return Adapters(model, weights, rank, alpha).student.requires_grad_(False)


def _read_config(manifest: Manifest) -> tuple[int, float, list[str]]:
    """Rank, alpha and targets. Raises `ArtifactError` for anything but the configuration of a plain LoRA."""
    config = manifest.metrics.get("adapter")
    if manifest.kind != "lora" or not isinstance(config, Mapping):
        raise ArtifactError("not a sound adapter: the manifest holds no adapter configuration")
    rank, alpha, targets = (config.get(key) for key in ("r", "lora_alpha", "target_modules"))
    if type(rank) is not int or rank < 1:
        raise ArtifactError(f"not a sound adapter: its rank is {rank!r}")
    if type(alpha) not in (int, float) or not 0 < alpha < math.inf:  # type: ignore[operator] # narrowed by its type
        raise ArtifactError(f"not a sound adapter: its alpha is {alpha!r}")
    if not isinstance(targets, list | tuple) or not all(isinstance(t, str) for t in targets) or not targets:
        raise ArtifactError(f"not a sound adapter: its targets are {targets!r}")
    names = [str(target) for target in targets]
    plain = adapter_config(rank, alpha, names) | {"target_modules": targets}  # type: ignore[arg-type] # a number, checked above
    if other := sorted(k for k in set(config) | set(plain) if config.get(k) != plain.get(k)):
        raise ArtifactError(f"not a sound adapter: {other[0]} is not that of a plain LoRA")
    if manifest.tokens:
        raise ArtifactError(f"not a sound adapter: it claims to occupy {manifest.tokens} tokens")
    return rank, float(alpha), names  # type: ignore[arg-type] # a number, checked above


def export_peft(artifact: Artifact, folder: str | Path) -> Path:
    """Write an artifact's adapter as the two files that PEFT and SGLang load; returns the folder.

    Raises `ArtifactError` for an artifact without a plain LoRA.
    """
    _read_config(artifact.manifest)
    tensors = {spec.name: artifact.tensor(spec.name) for spec in artifact.manifest.tensors}
    return write_peft(Path(folder), tensors, artifact.manifest.metrics["adapter"])


def peft_tensors(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Rename layers' ``a`` ``[rank, in]`` and ``b`` ``[out, rank]`` to PEFT's tensor names."""
    tensors = dict[str, Tensor]()
    for layer, (a, b) in pairs.items():
        tensors |= {_tensor_name(layer, "A"): a.contiguous(), _tensor_name(layer, "B"): b.contiguous()}
    return tensors


def write_peft(folder: Path, tensors: Mapping[str, Tensor], config: JSON) -> Path:
    """Write tensors with PEFT's names and the ``adapter_config.json``; returns the folder."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / WEIGHTS_FILE, {"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return folder
