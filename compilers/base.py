"""The interface of compilers: a document in, one artifact out."""

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
_HUGE = 1 << 63
_WANTED = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "text"}


@dataclass(frozen=True)
class Step:
    """The progress of a compilation: ``step`` of ``steps`` in a ``phase``, with the current loss in nats.

    ``seconds`` is the time since the phase started, ``held_out`` the latest loss on examples that are not
    trained on (None: not measured).
    """

    phase: str
    step: int
    steps: int
    loss: float
    seconds: float
    held_out: float | None = None


Progress = Callable[[Step], None]


def silent(step: Step) -> None:
    """Ignore progress."""


@dataclass(frozen=True)
class Compiled:
    """An encoded artifact and what its compilation cost."""

    data: bytes  # the artifact's file
    tokens: int  # positions that the artifact occupies
    seconds: float
    flops: float
    steps: int  # optimizer steps
    curve: tuple[tuple[str, int, float], ...]  # (phase, step, loss in nats)
    held_out: tuple[tuple[str, int, float], ...] = ()  # the same on examples that are not trained on


@dataclass(frozen=True)
class Estimate:
    """The expected cost of a compilation, and the size of its artifact in bytes."""

    flops: float
    nbytes: float


@runtime_checkable
class Compiler(Protocol):
    """Compiles documents for a frozen base model.

    An implementation has no state but its configuration and never changes ``base``. One without an option
    ``ratio`` has a class attribute ``takes_ratio = False``. One that can predict its cost has a method
    ``estimate(tokens, base) -> Estimate``. One that trains nothing for a document has a class attribute
    ``trains = False``.
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
        """Compile a document for ``tenant``.

        A compiler may write checkpoints to the file ``unfinished`` and resume from it when it is called again
        with the same arguments; the result is the same as without the interruption. Nothing else is left
        behind. Raises `CompileError` when the document does not fit or training does not converge.
        """


def configure(
    kind: type[C], presets: Mapping[str, Mapping[str, Any]], options: Mapping[str, Any] | None
) -> C:
    """A config of the dataclass ``kind`` from a preset (``options["preset"]``) and overrides.

    Raises `ConfigError` for unknown keys or presets and for invalid values.
    """
    options = dict(options or {})
    preset = options.pop("preset", None)
    if preset is not None and (not isinstance(preset, str) or preset not in presets):
        raise ConfigError(f"unknown preset {preset!r:.80}; there are: {', '.join(sorted(presets))}")
    values = {**(presets[preset] if preset else {}), **options}
    fields = {f.name: f.type for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(str(name) for name in set(values) - set(fields)):
        raise ConfigError(f"unknown option {', '.join(unknown)}; there are: {', '.join(sorted(fields))}")
    for name, value in values.items():
        if wanted := _wanted(str(fields[name]), value):
            raise ConfigError(f"{name} must be {wanted}, got {_shown(value)}")
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error


def _wanted(annotation: str, value: object) -> str:
    """What an option takes if ``value`` is something else, or "".

    It is annotated as ``bool``, ``int``, ``float`` or ``str``, or as one of them ``| None``. Of others the
    config itself knows what it takes.
    """
    names = annotation.split(" | ")
    given = "None" if value is None else type(value).__name__
    if not set(names) <= {*_WANTED, "None"}:
        return ""
    if type(value) is int and abs(value) >= _HUGE:
        return f"less than {_HUGE:.0e}"
    if given in names or (given == "int" and "float" in names):
        return ""
    return " or ".join(_WANTED[name] for name in names if name in _WANTED)


def _shown(value: object) -> str:
    """A value in an error message; Python refuses to write very long numbers."""
    return "a huge number" if type(value) is int and abs(value) >= _HUGE else f"{value!r:.40}"


def stored_settings(config: Any) -> dict[str, Any]:
    """A compiler's settings as its manifests hold them: sequences are lists.

    The file of ``queries``, if there is such a setting, is there by its name alone, as its path would reveal
    the machine's folders.
    """
    settings = dataclasses.asdict(config)
    lists = {name: list(value) for name, value in settings.items() if isinstance(value, tuple)}
    queries = {"queries": Path(settings["queries"]).name} if "queries" in settings else {}
    return {**settings, **lists, **queries}


def require_at_least(config: Any, minimum: int, *names: str) -> None:
    """Raise `ValueError` for the first of these fields that is less than ``minimum``, 0 or 1."""
    for name in names:
        if not (value := getattr(config, name)) >= minimum:
            limit = f"must be at least {minimum}" if minimum else "must not be negative"
            raise ValueError(f"{name} {limit}, got {value}")
