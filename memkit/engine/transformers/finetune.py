"""Trained weights beside a frozen model: whole layers, LoRA on the others, or both; one file of tensors.

The adapted model is a copy of the module tree that shares every other weight with the frozen one
(`memkit.engine.transformers.lora.shared_copy`), so requests with and without it never meet.

A file holds ``full.<parameter>`` for the parameters that were trained wholly and ``lora.<layer>.a``,
``[rank, in]``, and ``lora.<layer>.b``, ``[out, rank]``, for the layers that have a LoRA.
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
    """What is trained of a model.

    ``full_every`` n trains the layers 0, n, 2n ... wholly (FQLoRA, mean-pool paper, Appendix I.1); 0: none.
    ``rank`` is that of the LoRA on the remaining layers; 0: none. ``embeddings``: the embedding table and
    the output layer, too.
    """

    full_every: int = 3
    rank: int = 64
    alpha: float = 16.0
    dropout: float = 0.05  # of what goes into a LoRA, while it is trained
    targets: tuple[str, ...] = TARGETS
    embeddings: bool = True

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
        """Numbers of the layers that are trained wholly."""
        return list(range(0, layers, self.full_every)) if self.full_every else []


class FinetunedModel:
    """A trained copy, the ``student``, beside a frozen ``model``.

    ``full`` and ``lora`` are what is trained: parameters by their names, and low-rank pairs by their layers'.
    """

    def __init__(self, model: nn.Module, config: FinetuneConfig, seed: int = 0) -> None:
        self.config = config
        layers = _layers(model)
        whole = {name for number in config.whole(len(layers)) for name in _inside(model, layers[number])}
        apart = [name for name in _linear(model, config) if f"{name}.weight" not in whole]
        adapters = Adapters(model, _fresh(model, apart, config, seed), max(config.rank, 1), config.alpha)
        self.student: Any = adapters.student.eval()
        self.lora = adapters.layers
        for layer in self.lora.values():
            layer.dropout = config.dropout
        if config.embeddings:
            whole |= _embeddings(model)
        self.full = _own(self.student, whole)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [*self.full.values(), *self.low_rank]

    @property
    def low_rank(self) -> list[nn.Parameter]:
        return [p for layer in self.lora.values() for p in (layer.a, layer.b)]

    def state(self) -> dict[str, Tensor]:
        """Every trained tensor by its name in a file; they share memory with the parameters."""
        made = {f"full.{name}": p.detach() for name, p in self.full.items()}
        for name, layer in self.lora.items():
            made |= {f"lora.{name}.a": layer.a.detach()[0], f"lora.{name}.b": layer.b.detach()[0]}
        return made

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the trained tensors of a file. Raises `ArtifactError` unless they are exactly this model's."""
        mine = self.state()
        if wrong := sorted(set(mine) ^ set(tensors)):
            kind = "lacks" if wrong[0] in mine else "has the unknown tensor"
            raise ArtifactError(f"not sound weights: the file {kind} {wrong[0]}")
        for name, target in mine.items():
            given = tensors[name]
            if given.shape != target.shape:
                raise ArtifactError(
                    f"not sound weights: {name} has the shape {list(given.shape)}, not {list(target.shape)}"
                )
            if not given.is_floating_point() or not bool(given.isfinite().all()):
                raise ArtifactError(f"not sound weights: {name} holds what is no finite number")
            target.copy_(given)

    def frozen(self, dtype: torch.dtype) -> Any:
        """The student, to answer with: no dropout, nothing trained, in the frozen model's ``dtype``."""
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
    """Names, in the model, of a part's parameters."""
    mine = {id(p) for p in part.parameters()}
    return [name for name, p in model.named_parameters() if id(p) in mine]


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
    """LoRA weights that change nothing yet, float32."""
    random, made = torch.Generator().manual_seed(seed), dict[str, tuple[Tensor, Tensor]]()
    device = next(model.parameters()).device
    for name in names:
        layer: Any = model.get_submodule(name)
        bound = 1 / math.sqrt(layer.in_features)  # as PEFT does
        a = (torch.rand(1, config.rank, layer.in_features, generator=random) * 2 - 1) * bound
        made[name] = (a.to(device), torch.zeros(1, layer.out_features, config.rank, device=device))
    return made


def _own(student: nn.Module, names: set[str]) -> dict[str, nn.Parameter]:
    """Give a copy parameters of its own, float32, in place of shared ones; tied ones stay tied."""
    made, owned = dict[int, nn.Parameter](), dict[str, nn.Parameter]()
    for name, shared in list(student.named_parameters(remove_duplicate=False)):
        if name in names:
            made[id(shared)] = owned[name] = nn.Parameter(shared.detach().float().clone())
        if id(shared) in made:
            parent, _, last = name.rpartition(".")
            setattr(student.get_submodule(parent), last, made[id(shared)])
    return owned
