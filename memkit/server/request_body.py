"""Request bodies: JSON in UTF-8, whose texts can be stored and passed on."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

from memkit.server.error_handlers import not_json


class InvalidBodyError(HTTPException):
    """A body that cannot be read; ``param`` names the field at fault."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(400, message)
        self.message, self.param = message, param


def parse(data: bytes) -> Any:
    """The value of a body. Raises `InvalidBodyError` for invalid JSON, and for lone surrogates."""
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InvalidBodyError(f"the body is not UTF-8 (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise InvalidBodyError(not_json(error.pos)) from error
    except RecursionError as error:
        raise InvalidBodyError("the body is nested too deeply") from error
    except ValueError as error:  # an integer of thousands of digits
        raise InvalidBodyError("the body holds a number that is too long") from error
    check(value)
    return value


def check(value: Any) -> None:
    """Raise `InvalidBodyError` if a text in a value is not valid Unicode.

    JSON can spell a lone surrogate, ``"\\ud800"``, which no database, tokenizer or other server takes.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        place = next((place for place, text in _texts(value, ()) if not _is_unicode(text)), ())
        where = ".".join(place)
        problem = "holds half a character (a lone surrogate)"
        raise InvalidBodyError(f"{where or 'the body'}: {problem}", where or None) from error


def _texts(value: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """All texts in a value with their places; a key has the place of its object."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield place, key
            yield from _texts(item, (*place, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _texts(item, (*place, str(number)))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Request(Request):
    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = parse(await self.body())
        return self._json


class JsonRoute(APIRoute):
    """A route that reads bodies with `parse`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def read(request: Request) -> Response:
            return await handle(_Request(request.scope, request.receive))

        return read
