"""Extension points: compilers, embedders and gates by name.

Each is an entry-point group. What ships with memkit is declared in it like everybody else's. An entry point
loads a function: a compiler's of its options, a gate's of the `GateConfig`, an embedder's of what stands
behind the colon in ``name:ARGUMENT``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

from memkit.errors import ConfigError, MemkitError

if TYPE_CHECKING:
    from memkit.compilers.base import Compiler
    from memkit.models.loading import LoadedModel

GROUP = "memkit.compilers"
EMBEDDERS = "memkit.embedders"
GATES = "memkit.gates"
# What ships with memkit, as pyproject.toml declares it. These are found without reading the metadata of every
# installed package, which would slow down each start.
SHIPPED: Mapping[str, Mapping[str, str]] = {
    GROUP: {
        "compact": "memkit.compilers.compact.compiler:Compact",
        "lcc": "memkit.compilers.lcc.compiler:LCC",
        "lora": "memkit.compilers.lora.compiler:LoRA",
        "meanpool": "memkit.compilers.meanpool.compiler:MeanPool",
    },
    EMBEDDERS: {
        "hybrid": "memkit.router.embedder_sentence:hybrid_embedder",
        "lexical": "memkit.router.embedders:lexical_embedder",
        "sentence": "memkit.router.embedder_sentence:sentence_embedder",
    },
    GATES: {
        "auto": "memkit.router.gates:AutoGate",
        "entropy": "memkit.router.gates:EntropyGate",
        "learned": "memkit.router.gates:LearnedGate",
        "rule": "memkit.router.gates:RuleGate",
    },
}
# The modules that parse the options of the compilers above, without any library of models.
_OPTIONS = {
    "compact": "compact.config",
    "lcc": "lcc.config",
    "lora": "lora.config",
    "meanpool": "meanpool.options",
}
AUTO = "auto"  # stands for one of the compilers above; see `memkit.compiler_choice`


def names(group: str) -> list[str]:
    """The names that are installed under an entry-point group."""
    return sorted({*SHIPPED[group], *_installed(group)})


def load(group: str, name: str) -> Any:
    """What an entry point names. Raises `ConfigError` for an unknown ``name``."""
    if (value := SHIPPED[group].get(name)) is not None:
        return EntryPoint(name, value, group).load()
    found = _installed(group).get(name)
    if found is None:
        kind = group.rpartition(".")[2].removesuffix("s")
        raise ConfigError(f"unknown {kind} {name!r:.80}; there are: {', '.join(names(group))}")
    try:
        return found.load()
    except MemkitError:
        raise
    except Exception as error:  # of another package
        raise ConfigError(f"the entry point {name!r} of {group} cannot be loaded: {error}") from error


def _installed(group: str) -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=group)}


# -- compilers ----------------------------------------------------------------------------------
def compilers() -> list[str]:
    """Names of the installed compilers."""
    return names(GROUP)


def compiler(name: str, options: Mapping[str, Any] | None = None) -> Compiler:
    """A configured compiler. Raises `ConfigError` for an unknown name or option."""
    made: Compiler = load(GROUP, name)(options)
    if not callable(getattr(made, "compile", None)):
        raise ConfigError(f"the compiler {name!r} has no method compile: its entry point gave {made!r:.80}")
    return made


def check(name: str, options: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for an unknown compiler or option, without importing a library of models."""
    if name == AUTO:
        if options:
            raise ConfigError(
                f"the option {next(iter(options))} belongs to one compiler: name it with --compiler, "
                f"MEMKIT_COMPILER or Memory(compiler=...); there are: {', '.join(compilers())}"
            )
        return
    if options and name in _OPTIONS:
        import_module(f"memkit.compilers.{_OPTIONS[name]}").parse_options(options)
    elif options:
        compiler(name, options)
    elif name not in SHIPPED[GROUP]:
        load(GROUP, name)


def takes_ratio(name: str) -> bool:
    """Whether a compiler has the option ``ratio``. Raises `ConfigError` for an unknown name."""
    return bool(getattr(load(GROUP, name), "takes_ratio", True))


def trains(name: str) -> bool:
    """Whether a compiler trains for each document, instead of only reading it.

    A compiler of another package does unless it says ``trains = False``. Raises `ConfigError` for an unknown
    name.
    """
    return bool(getattr(load(GROUP, name), "trains", True))


def obstacle(name: str, base: LoadedModel, embedded: bool) -> str:
    """Why a compiler's artifacts cannot be made for a model, or not be used by the engine, or "".

    ``embedded`` says whether the engine in this process answers. A compiler that says nothing of this has
    none. Raises `ConfigError` for an unknown name.
    """
    ask = getattr(load(GROUP, name), "obstacle", None)
    return "" if ask is None else str(ask(base, embedded))


def own_ratio(name: str, load_model: Callable[[], LoadedModel]) -> float | None:
    """The ratio that a compiler works at for a model unless told; None for one that works at any.

    The model is loaded only where that matters. Raises `ConfigError` for an unknown name, `CompileError`
    where the compiler is not ready for the model.
    """
    ask = getattr(load(GROUP, name), "own_ratio", None)
    return None if ask is None else float(ask(load_model()))
