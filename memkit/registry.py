"""Compilers by name. Built-in ones come through the same entry points as everybody else's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from memkit.errors import ConfigError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from memkit.compilers.base import Compiler
    from memkit.models.loading import LoadedModel

GROUP = "memkit.compilers"
# The modules with the options of those that ship with memkit. To know these, nobody's entry points are read,
# and to check them no library of models is imported.
SHIPPED = {"lcc": "lcc.config", "lora": "lora.config", "meanpool": "meanpool.options"}


def _installed() -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=GROUP)}


def compilers() -> list[str]:
    """Names of the installed compilers."""
    return sorted(_installed())


def compiler(name: str, options: Mapping[str, Any] | None = None) -> Compiler:
    """A configured compiler. Raises `ConfigError` for an unknown name or option."""
    made: Compiler = _load(name)(options)
    return made


def check(name: str, options: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for an unknown compiler or option. None that ships with memkit is loaded."""
    if options and name in SHIPPED:
        import_module(f"memkit.compilers.{SHIPPED[name]}").parse_options(options)
    elif options:
        compiler(name, options)
    elif name not in SHIPPED and name not in _installed():
        raise _unknown(name)


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
    found = _installed().get(name)
    if found is None:
        raise _unknown(name)
    return found.load()


def _unknown(name: str) -> ConfigError:
    return ConfigError(f"unknown compiler {name!r:.80}; there are: {', '.join(compilers())}")
