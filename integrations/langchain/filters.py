"""Filters of a LangGraph store, as its `InMemoryStore` reads them."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping
from typing import Any

from langgraph.store.base import MatchCondition

from memkit.errors import ConfigError

_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


class FilterError(ConfigError, TypeError):
    """A filter that cannot be applied to an item: `$gt` and its like compare numbers alone."""


def fits(value: str, conditions: Mapping[str, Any] | None) -> bool:
    """Whether an item's value, as JSON, fulfils a filter. Raises `FilterError` where that cannot be said."""
    found = json.loads(value) if conditions else {}
    return all(_compared(found.get(key), wanted, key) for key, wanted in (conditions or {}).items())


def matches(condition: MatchCondition, namespace: tuple[str, ...]) -> bool:
    """Whether a namespace begins, or ends, as a condition says."""
    path = condition.path
    if len(namespace) < len(path):
        return False
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[-len(path) :]
    return all(wanted in ("*", label) for wanted, label in zip(path, part if path else (), strict=True))


def _compared(value: Any, wanted: Any, name: str) -> bool:
    if isinstance(wanted, dict) and any(key.startswith("$") for key in wanted):
        return all(_operated(value, how, limit, name) for how, limit in wanted.items())
    if isinstance(wanted, dict):
        return isinstance(value, dict) and all(_compared(value.get(k), w, k) for k, w in wanted.items())
    if isinstance(wanted, list | tuple):
        same = isinstance(value, list | tuple) and len(value) == len(wanted)
        return same and all(_compared(v, w, name) for v, w in zip(value, wanted, strict=True))
    return bool(value == wanted)


def _operated(value: Any, name: str, limit: Any, of: str) -> bool:
    if name in ("$eq", "$ne"):
        return bool((value == limit) == (name == "$eq"))
    if name not in _ORDER:
        raise ConfigError(f"a filter knows $eq, $ne, {', '.join(_ORDER)}, not {name}")
    try:
        return _ORDER[name](float(value), float(limit))
    except (TypeError, ValueError, OverflowError) as error:
        raise FilterError(
            f"{name} compares numbers, and {of!r:.80} is {value!r:.80} beside {limit!r:.80}: use $eq or $ne, "
            "or keep a number to compare, as the seconds since 1970 of a date"
        ) from error
