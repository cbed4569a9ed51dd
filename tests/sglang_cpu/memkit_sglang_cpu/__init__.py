"""A plugin that lets SGLang's LoRA code run where no accelerator is: it asks for pinned memory.

Only those modules see another ``torch``: changing its factories for all would break ``torch.device("meta")``.
"""

import functools
import importlib
import types
from collections.abc import Callable
from typing import Any

import torch

MODULES = ("sglang.srt.lora.layers", "sglang.srt.lora.backend.torch_backend")
FACTORIES = ("tensor", "empty", "zeros", "ones", "full", "arange", "empty_like", "zeros_like")


def _unpinned(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def make(*arguments: Any, **options: Any) -> Any:
        options.pop("pin_memory", None)
        return factory(*arguments, **options)

    return make


class _Torch(types.ModuleType):
    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def install() -> None:
    if torch.cuda.is_available():
        return
    unpinned = _Torch("torch")
    for name in FACTORIES:
        setattr(unpinned, name, _unpinned(getattr(torch, name)))
    for name in MODULES:
        importlib.import_module(name).torch = unpinned  # type: ignore[attr-defined] # its name for the module
    torch.Tensor.pin_memory = lambda self, *_arguments, **_options: self  # type: ignore[method-assign] # as above
