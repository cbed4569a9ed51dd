"""Validation errors as sentences: pydantic's findings in our own words, without its links."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Finding = Mapping[str, Any]
_TIME = "must be a time such as 2026-05-02T08:00:00Z"
_NUMBER, _WHOLE, _BOOLEAN = "must be a number", "must be a whole number", "must be true or false"
_LIST, _OBJECT, _TEXT = "must be a list", "must be an object", "must be a text"
_FIXED = {
    "missing": "is missing",
    "extra_forbidden": "is not known here: leave it out",
    "string_type": _TEXT,
    "string_unicode": "holds half a character (a lone surrogate)",
    "string_pattern_mismatch": "has not the form of one",
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "int_parsing_size": "is too large a number",
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": "must be a finite number",
    "bool_type": _BOOLEAN,
    "bool_parsing": _BOOLEAN,
    "list_type": _LIST,
    "tuple_type": _LIST,
    "dict_type": _OBJECT,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
}
# Kinds that say no more than that one form of several was not meant.
_FORMS = {"string_type", "list_type", "tuple_type", "dict_type", "model_type", "int_type", "int_parsing"}
_FORMS |= {"model_attributes_type", "none_required", "float_type", "float_parsing"}


def _counted(most: int, one: str, many: str) -> str:
    return f"{most:,} {one if most == 1 else many}"


def _number(value: float) -> str:
    return f"{int(value) if value == int(value) else value:,}"


def _long(error: Finding, ctx: Finding) -> str:
    return f"has {len(error['input']):,} characters, the most is {ctx['max_length']:,}"


def _short(error: Finding, ctx: Finding) -> str:
    least = int(ctx["min_length"])
    return "is empty" if not error["input"] else f"needs {_counted(least, 'character', 'characters')} or more"


def _many(error: Finding, ctx: Finding) -> str:
    if isinstance(error["input"], str):  # in a union of text and list
        return _long(error, ctx)
    actual = ctx.get("actual_length")
    given = f"{actual:,}" if isinstance(actual, int) else "more"
    return f"has {given} items, the most is {ctx['max_length']:,}"


def _few(error: Finding, ctx: Finding) -> str:
    if isinstance(error["input"], str):
        return _short(error, ctx)
    least = int(ctx["min_length"])
    return "is empty" if not error["input"] else f"needs {_counted(least, 'item', 'items')} or more"


def _own(error: Finding, ctx: Finding) -> str:
    return str(ctx.get("error", "is not valid"))


_MADE: dict[str, Callable[[Finding, Finding], str]] = {
    "string_too_long": _long,
    "string_too_short": _short,
    "too_long": _many,
    "too_short": _few,
    "value_error": _own,
    "greater_than": lambda error, ctx: f"must be more than {_number(ctx['gt'])}",
    "greater_than_equal": lambda error, ctx: f"must be at least {_number(ctx['ge'])}",
    "less_than": lambda error, ctx: f"must be less than {_number(ctx['lt'])}",
    "less_than_equal": lambda error, ctx: f"must be at most {_number(ctx['le'])}",
    "literal_error": lambda error, ctx: f"must be {ctx['expected']}",
    "enum": lambda error, ctx: f"must be {ctx['expected']}",
}


def describe_error(error: Finding) -> str:
    """A finding of pydantic as a sentence about the value."""
    kind = str(error.get("type", ""))
    if kind in _FIXED:
        return _FIXED[kind]
    if kind in _MADE:
        return _MADE[kind](error, error.get("ctx", {}))
    if kind.startswith(("datetime_", "date_", "timezone_", "time_")):
        return _TIME
    return "is not valid"


def describe_errors(findings: Sequence[Finding], given: Any = None) -> tuple[str | None, str]:
    """The place of the worst finding, such as ``messages.0.content``, and a sentence about it.

    ``given`` is the validated value. Where a value may have several forms, pydantic reports each of them: the
    finding for the closest form counts, and the names of forms are no part of the place.
    """
    placed = [(place_of(each["loc"], given, each.get("type") == "missing"), each) for each in findings]
    if not placed:
        return None, "the request is not valid"
    deepest = max(len(place) for place, _ in placed)
    place, error = min(placed, key=lambda pair: (pair[1].get("type") in _FORMS, deepest - len(pair[0])))
    same = {describe_error(each) for at, each in placed if at == place and each.get("type") in _FORMS}
    sentence = describe_error(error)
    if error.get("type") in _FORMS and len(same) > 1:
        words = [each.removeprefix("must be ") for each in sorted(same) if each.startswith("must be ")]
        sentence = f"must be {' or '.join(words)}"
    where = ".".join(map(str, place))[:200] or None
    if where is None:
        return None, sentence if error.get("type") == "value_error" else f"the request {sentence}"
    return where, f"{where}: {sentence}"


def place_of(loc: Sequence[Any], given: Any, missing: bool = False) -> tuple[str | int, ...]:
    """The keys and indices of a place, without pydantic's names of forms and validators."""
    place, at = list[str | int](), given
    for number, key in enumerate(loc):
        if isinstance(at, Mapping) and (key in at or (missing and number == len(loc) - 1)):
            at = at.get(key)
        elif isinstance(at, list | tuple) and isinstance(key, int):
            at = at[key] if key < len(at) else None
        else:
            continue
        place.append(key)
    return tuple(place)
