"""Filters of a LangGraph store, with the semantics of LangGraph's `InMemoryStore`."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping
from typing import Any

from langgraph.store.base import MatchCondition

from memkit.errors import ConfigError

_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


class FilterError(ConfigError, TypeError):
    """A filter that cannot be applied to an item: `$gt`, `$gte`, `$lt` and `$lte` only compare numbers."""


def matches_filter(value: str, conditions: Mapping[str, Any] | None) -> bool:
    """Whether an item's value, given as JSON, satisfies a filter.

    Raises `FilterError` if a value cannot be compared, `ConfigError` for an unknown operator.
    """
    fields = json.loads(value) if conditions else {}
    return all(_equals(fields.get(key), wanted, key) for key, wanted in (conditions or {}).items())


def matches_namespace(condition: MatchCondition, namespace: tuple[str, ...]) -> bool:
    """Whether a namespace has the prefix or suffix that a condition demands; "*" matches any label."""
    path = condition.path
    if len(namespace) < len(path):
        return False
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[-len(path) :]
    return all(wanted in ("*", label) for wanted, label in zip(path, part if path else (), strict=True))


def _equals(value: Any, wanted: Any, name: str) -> bool:
    if isinstance(wanted, dict) and any(key.startswith("$") for key in wanted):
        return all(_compare(value, operator_, limit, name) for operator_, limit in wanted.items())
    if isinstance(wanted, dict):
        return isinstance(value, dict) and all(_equals(value.get(k), w, k) for k, w in wanted.items())
    if isinstance(wanted, list | tuple):
        same = isinstance(value, list | tuple) and len(value) == len(wanted)
        return same and all(_equals(v, w, name) for v, w in zip(value, wanted, strict=True))
    return bool(value == wanted)


def _compare(value: Any, name: str, limit: Any, of: str) -> bool:
    if name in ("$eq", "$ne"):
        return bool((value == limit) == (name == "$eq"))
    if name not in _COMPARISONS:
        raise ConfigError(f"a filter has the operators $eq, $ne, {', '.join(_COMPARISONS)}; got {name}")
    try:
        return _COMPARISONS[name](float(value), float(limit))
    except (TypeError, ValueError, OverflowError) as error:
        raise FilterError(
            f"{name} compares numbers; {of!r:.80} is {value!r:.80}, the limit {limit!r:.80}: use $eq or $ne, "
            "or store a number, such as a date's seconds since 1970"
        ) from error
