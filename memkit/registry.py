"""Compilers by name. Built-in ones come through the same entry points as everybody else's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from memkit.errors import ConfigError

if TYPE_CHECKING:
    from memkit.compilers.base import Compiler
    from memkit.models.loading import LoadedModel

GROUP = "memkit.compilers"


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def compilers() -> list[str]:
    """Names of the installed compilers."""
    return sorted(_installed())


def compiler(name: str, options: Mapping[str, Any] | None = None) -> Compiler:
    """A configured compiler. Raises `ConfigError` for an unknown name or option."""
    made: Compiler = _load(name)(options)
    return made


def takes_ratio(name: str) -> bool:
    """Whether a compiler has the option ``ratio``. Raises `ConfigError` for an unknown name."""
    return bool(getattr(_load(name), "takes_ratio", True))


def own_ratio(name: str, load: Callable[[], LoadedModel]) -> float | None:
    """The ratio that a compiler works at for a model unless told; None for one that works at any.

    The model is loaded only where that matters. Raises `ConfigError` for an unknown name, `CompileError`
    where the compiler is not ready for the model.
    """
    ask = getattr(_load(name), "own_ratio", None)
    return None if ask is None else float(ask(load()))


def _load(name: str) -> Any:
    try:
        return _installed()[name].load()
    except KeyError:
        raise ConfigError(f"unknown compiler {name!r}; there are: {', '.join(compilers())}") from None
