"""Whether a memory's artifact is out of date, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from memkit import registry
from memkit.bank import MemoryInfo
from memkit.compiler_choice import AUTO, TRAINED, outdated
from memkit.errors import ArtifactError, ConfigError, NotFoundError
from memkit.pipeline.context import Context


def why_due(context: Context, info: MemoryInfo) -> str:
    """Why a memory's artifact is out of date, or ""."""
    compiling, base = context.compiling, context.embedded.base
    if info.pinned:
        return ""
    if not info.version:
        return "not compiled yet"
    if info.fingerprint not in (None, base.fingerprint):
        return "compiled for another model"
    if reason := outdated(compiling.compiler, info.compiler, base, compiling.embedded):
        return reason
    if reason := _unreadable(context, info):
        return reason
    if info.behind:
        return "1 new entry" if info.behind == 1 else f"{info.behind} new entries"
    return _other_settings(context, info)


def up_to_date(context: Context, info: MemoryInfo) -> bool:
    """Whether a memory has an artifact that nothing is wrong with, and that can be used.

    Unlike `why_due` it loads no model besides the one that answers.
    """
    if info.status != "compiled" or info.behind:
        return False
    other = context.compiling.compiler not in (AUTO, info.compiler) or _other_settings(context, info)
    return (info.pinned or not other) and not context.router.obstacle(info)


def _unreadable(context: Context, info: MemoryInfo) -> str:
    """Why the engine that answers cannot read what ``auto`` trained for the embedded one, or ""."""
    compiling = context.compiling
    if compiling.embedded or compiling.compiler != AUTO or info.compiler != TRAINED:
        return ""
    try:
        with context.bank.artifact(context.owner, info.id) as artifact:
            kind = artifact.manifest.kind
    except (ArtifactError, NotFoundError):
        return ""
    return "only the embedded engine reads heads of different lengths" if kind == "ragged_kv" else ""


def _other_settings(context: Context, info: MemoryInfo) -> str:
    """How the settings of an artifact differ from the options that were given, or "".

    An option that is None or "" stands for what the compiler chooses, so nothing differs from it.
    """
    name, options = context.compiling.compiler, context.compiling.options
    if not options or info.compiler != name:
        return ""
    try:
        with context.bank.artifact(context.owner, info.id) as artifact:
            made = _settings(name, artifact.manifest.config)
    except (ArtifactError, ConfigError, NotFoundError):  # damaged, forgotten or of a former version
        return ""
    for option, value in _settings(name, options).items():
        if value not in (None, "") and made.get(option) != value:
            return f"compiled with {option} {made.get(option)}, not {value}"
    return ""


def _settings(compiler: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a compiler with these options; none of a compiler that does not tell. As in a manifest,
    sequences are lists, and files are there by their names alone."""
    config = getattr(registry.compiler(compiler, options), "config", None)
    known = asdict(config) if is_dataclass(config) and not isinstance(config, type) else {}
    return {name: _as_stored(value) for name, value in known.items()}


def _as_stored(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return Path(value).name if isinstance(value, str) else value
