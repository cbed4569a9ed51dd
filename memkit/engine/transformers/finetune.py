"""Fine-tune a frozen model: some layers fully, LoRA on the others, or only one of the two.

The fine-tuned model is a copy of the module tree that shares all other weights with the frozen one
(`memkit.engine.transformers.lora.shared_copy`), so the frozen model is never changed.

Its weights are tensors named ``full.<parameter>`` for fully trained parameters, and ``lora.<layer>.a``
``[rank, in]`` and ``lora.<layer>.b`` ``[out, rank]`` for layers with a LoRA.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from memkit.engine.transformers.lora import Adapters, targeted
from memkit.errors import ArtifactError, ModelError

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class FinetuneConfig:
    """Which parameters are trained, and how. Raises `ValueError` for invalid values."""

    full_every: int = 3  # n: layers 0, n, 2n ... are trained fully (FQLoRA, mean-pool App. I.1); 0: none
    rank: int = 64  # of the LoRA on the remaining layers; 0: none
    alpha: float = 16.0  # the LoRA is scaled by alpha / rank
    dropout: float = 0.05  # on the input of a LoRA, during training
    targets: tuple[str, ...] = TARGETS  # linear layers with a LoRA
    embeddings: bool = True  # train the embedding table and the output layer fully, too

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))
        for name in ("full_every", "rank"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 0:
                raise ValueError(f"{name} must be a number from 0 on, got {getattr(self, name)!r}")
        if not (self.full_every or self.rank):
            raise ValueError("full_every and rank are both 0: nothing would be trained")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be positive, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")

    def whole(self, layers: int) -> list[int]:
        """Indices of the layers that are trained fully."""
        return list(range(0, layers, self.full_every)) if self.full_every else []


class FinetunedModel:
    """A trainable copy, the ``student``, of a frozen ``model``; ``seed`` initializes the LoRA.

    ``full`` maps names to fully trained parameters, ``lora`` names of layers to their LoRA. Raises
    `ModelError` for a model without a list of layers or without the targets.
    """

    def __init__(self, model: nn.Module, config: FinetuneConfig, seed: int = 0) -> None:
        self.config = config
        layers = _layers(model)
        full = {name for number in config.whole(len(layers)) for name in _inside(model, layers[number])}
        adapted = [name for name in _linear(model, config) if f"{name}.weight" not in full]
        adapters = Adapters(model, _fresh(model, adapted, config, seed), max(config.rank, 1), config.alpha)
        self.student: Any = adapters.student.eval()
        self.lora = adapters.layers
        for layer in self.lora.values():
            layer.dropout = config.dropout
        if config.embeddings:
            full |= _embeddings(model)
        self.full = _own(self.student, full)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [*self.full.values(), *self.low_rank]

    @property
    def low_rank(self) -> list[nn.Parameter]:
        return [p for layer in self.lora.values() for p in (layer.a, layer.b)]

    def state(self) -> dict[str, Tensor]:
        """The trained tensors by their names in a file; they share memory with the parameters."""
        tensors = {f"full.{name}": p.detach() for name, p in self.full.items()}
        for name, layer in self.lora.items():
            tensors |= {f"lora.{name}.a": layer.a.detach()[0], f"lora.{name}.b": layer.b.detach()[0]}
        return tensors

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Load trained tensors. Raises `ArtifactError` unless names and shapes match and all are finite."""
        own = self.state()
        if wrong := sorted(set(own) ^ set(tensors)):
            kind = "lacks" if wrong[0] in own else "has the unknown tensor"
            raise ArtifactError(f"not sound weights: the file {kind} {wrong[0]}")
        for name, target in own.items():
            loaded = tensors[name]
            if loaded.shape != target.shape:
                raise ArtifactError(
                    f"not sound weights: {name} has the shape {list(loaded.shape)}, not {list(target.shape)}"
                )
            if not loaded.is_floating_point() or not bool(loaded.isfinite().all()):
                raise ArtifactError(f"not sound weights: {name} holds what is no finite number")
            target.copy_(loaded)

    def frozen(self, dtype: torch.dtype) -> Any:
        """The student for inference: without dropout and gradients, its weights in ``dtype``."""
        for layer in self.lora.values():
            layer.dropout = 0.0
        for parameter in self.parameters:
            parameter.data = parameter.data.to(dtype)
        return self.student.requires_grad_(False).eval()


def _layers(model: Any) -> Any:
    layers = getattr(model.base_model, "layers", None)
    if layers is None:
        raise ModelError(f"{type(model).__name__} has no list of layers: it cannot be trained beside itself")
    return layers


def _inside(model: nn.Module, part: nn.Module) -> list[str]:
    """The names, in the model, of a submodule's parameters."""
    ids = {id(p) for p in part.parameters()}
    return [name for name, p in model.named_parameters() if id(p) in ids]


def _linear(model: nn.Module, config: FinetuneConfig) -> list[str]:
    if not config.rank:
        return []
    try:
        return list(targeted(model, config.targets))
    except ValueError as error:
        raise ModelError(f"the LoRA does not fit this model; choose other targets: {error}") from error


def _embeddings(model: Any) -> set[str]:
    parts = [part for part in (model.get_input_embeddings(), model.get_output_embeddings()) if part]
    return {name for part in parts for name in _inside(model, part)}


def _fresh(
    model: nn.Module, names: Sequence[str], config: FinetuneConfig, seed: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Initial LoRA weights, float32; ``b`` is zero, so the model is unchanged."""
    random, weights = torch.Generator().manual_seed(seed), dict[str, tuple[Tensor, Tensor]]()
    device = next(model.parameters()).device
    for name in names:
        layer: Any = model.get_submodule(name)
        bound = 1 / math.sqrt(layer.in_features)  # as PEFT does
        a = (torch.rand(1, config.rank, layer.in_features, generator=random) * 2 - 1) * bound
        weights[name] = (a.to(device), torch.zeros(1, layer.out_features, config.rank, device=device))
    return weights


def _own(student: nn.Module, names: set[str]) -> dict[str, nn.Parameter]:
    """Replace shared parameters of a copy by trainable float32 ones; tied parameters stay tied."""
    replaced, owned = dict[int, nn.Parameter](), dict[str, nn.Parameter]()
    for name, shared in list(student.named_parameters(remove_duplicate=False)):
        if name in names:
            replaced[id(shared)] = owned[name] = nn.Parameter(shared.detach().float().clone())
        if id(shared) in replaced:
            parent, _, last = name.rpartition(".")
            setattr(student.get_submodule(parent), last, replaced[id(shared)])
    return owned
