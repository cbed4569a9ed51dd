"""Which compiler ``auto``, the default, stands for.

1. ``meanpool``, where a compressor was trained for the base model.
2. ``compact``, where the model and the engine that answers support its artifacts.
3. ``lcc``, which serves every engine, but trains: a document then waits for the nightly run.

The nightly run compiles a memory again with `TRAINED` where that pays (see `memkit.recompile.plan`); its
start is then the compact memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memkit import registry

if TYPE_CHECKING:
    from memkit.models.loading import LoadedModel

AUTO = registry.AUTO
READERS = ("meanpool", "compact")  # the first that can be used
TRAINED = "lcc"
# What `TRAINED` is given where ``auto`` chose compact: it begins with the same rows, and trains them.
FROM_COMPACT: Mapping[str, Any] = {"preset": "dense", "ratio": 4.0}


@dataclass(frozen=True)
class Choice:
    """A compiler's ``name``, and the ``reason`` for it; "" where it was named."""

    name: str
    reason: str = ""

    @property
    def at_once(self) -> bool:
        """Whether a document is compiled as soon as it is stored: unless ``auto`` chose one that trains."""
        return not self.reason or not registry.trains(self.name)

    def options(self, compiler: str) -> dict[str, Any]:
        """What the nightly run gives a ``compiler`` where ``auto`` chose this one."""
        return dict(FROM_COMPACT) if (self.name, compiler) == ("compact", TRAINED) else {}

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name


def choose(compiler: str, base: LoadedModel, embedded: bool) -> Choice:
    """The compiler that ``compiler`` stands for; a name other than ``auto`` stands for itself.

    ``embedded`` says whether the engine in this process answers, which reads every kind of artifact.
    """
    if compiler != AUTO:
        return Choice(compiler)
    reasons = ["auto"]
    for name in READERS:
        obstacle = registry.obstacle(name, base, embedded)
        if not obstacle:
            return Choice(name, "; ".join(reasons))
        reasons.append(f"{name}: {obstacle}")
    return Choice(TRAINED, "; ".join(reasons))


def outdated(compiler: str, made_by: str | None, base: LoadedModel, embedded: bool) -> str:
    """Why what the compiler ``made_by`` made has to be compiled again, or "". ``auto`` keeps what works."""
    if compiler != AUTO:
        return "" if made_by == compiler else f"compiled by {made_by}"
    reason = registry.obstacle(made_by, base, embedded) if made_by and made_by in READERS else ""
    return f"compiled by {made_by}: {reason}" if reason else ""
