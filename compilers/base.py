"""What a compiler is: a document in, one artifact out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

from memkit.errors import ConfigError

if TYPE_CHECKING:
    from memkit.document import Document
    from memkit.models.loading import LoadedModel

C = TypeVar("C")


@dataclass(frozen=True)
class Step:
    """Progress of a compilation: ``step`` of ``steps`` in a ``phase``, with the current loss (nats)."""

    phase: str
    step: int
    steps: int
    loss: float
    seconds: float


Progress = Callable[[Step], None]


def silent(step: Step) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True)
class Compiled:
    """An encoded artifact and what its compilation cost.

    ``curve`` holds (phase, step, loss in nats); ``flops`` counts the training arithmetic.
    """

    data: bytes
    tokens: int
    seconds: float
    flops: float
    steps: int
    curve: tuple[tuple[str, int, float], ...]


@dataclass(frozen=True)
class Estimate:
    """What a compilation is going to cost: its arithmetic, and the bytes of its artifact."""

    flops: float
    nbytes: float


@runtime_checkable
class Compiler(Protocol):
    """Compiles documents for one frozen base model.

    An implementation is stateless apart from its configuration and never changes ``base``. One that
    takes no option ``ratio`` says so by a class attribute ``takes_ratio = False``. One that can tell
    its costs beforehand has a method ``estimate(tokens, base) -> Estimate``.
    """

    name: str
    version: str

    def compile(
        self,
        document: Document,
        base: LoadedModel,
        *,
        tenant: str,
        progress: Progress = silent,
        unfinished: Path | None = None,
    ) -> Compiled:
        """Compile a document.

        Raises `CompileError` when it does not fit or does not converge. An interruption leaves
        nothing behind but what the compiler may keep in the file ``unfinished``, to go on from when
        it is called again with the same arguments. The result is the same as without interruption.
        """


def configure(
    kind: type[C], presets: Mapping[str, Mapping[str, Any]], options: Mapping[str, Any] | None
) -> C:
    """A frozen config from a preset (``options["preset"]``) and overrides.

    Raises `ConfigError` for unknown keys or presets, and when the config refuses a value.
    """
    options = dict(options or {})
    preset = options.pop("preset", None)
    if preset is not None and (not isinstance(preset, str) or preset not in presets):
        raise ConfigError(f"unknown preset {preset!r:.80}; there are: {', '.join(sorted(presets))}")
    values = {**(presets[preset] if preset else {}), **options}
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(values) - known):
        raise ConfigError(f"unknown option {', '.join(unknown)}; there are: {', '.join(sorted(known))}")
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error


def require(config: Any, least: int, *names: str) -> None:
    """Raise `ValueError` for the first of these fields that is less than ``least``, 0 or 1."""
    for name in names:
        if not (value := getattr(config, name)) >= least:
            limit = f"must be at least {least}" if least else "must not be negative"
            raise ValueError(f"{name} {limit}, got {value}")
