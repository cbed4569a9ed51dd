"""Parse messages in the form of chat APIs: ``{"role": ..., "content": ...}``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from typing import Any, TypeAlias

from memkit.bank.types import Message
from memkit.errors import ConfigError
from memkit.text.dates import parse_time
from memkit.text.normalize import is_blank

MessageLike: TypeAlias = "Mapping[str, Any] | Message"
Turn: TypeAlias = "tuple[str, str] | Mapping[str, Any]"
Turns: TypeAlias = Sequence[Turn]
When: TypeAlias = "str | date | datetime"
_ROLES = ("system", "developer", "user", "human", "assistant", "ai", "tool", "function")
MESSAGE_FORM = 'a message is {"role": ..., "content": ...}, optionally with a date as "when"'
# Fields of messages in chat APIs. Those beside role, content and when are accepted and ignored.
MESSAGE_FIELDS = frozenset(
    "role content when id name type refusal audio annotations tool_calls tool_call_id function_call "
    "reasoning reasoning_content status".split()
)


def content_text(content: Any) -> str:
    """The text of a message's content, which is a string or a list of parts.

    Parts that are not text are left out. Raises `ConfigError` for anything else.
    """
    if content is None:  # a message that only calls tools
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise ConfigError(f"a message's content is a text or a list of parts, got {content!r:.80}")
    return "\n".join(filter(None, map(_part_text, content)))


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        raise ConfigError(f"a part of a message's content is a text or a mapping, got {part!r:.80}")
    if part.get("type") not in (None, "text", "input_text", "output_text"):
        return ""
    text = part.get("text", "")
    return text if isinstance(text, str) else ""


def require_text(what: str, text: Any) -> str:
    """Return ``text``; ``what`` names it in errors.

    Raises `ConfigError` unless it is a string that can be encoded.
    """
    if not isinstance(text, str):
        raise ConfigError(f"the {what} must be a text, got {text!r:.80}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"the {what} holds half a character (a lone surrogate) at {error.start}: decode it again"
        ) from error
    return text


def parse_messages(messages: Sequence[MessageLike], when: When | None) -> list[Message]:
    """Parse messages into entries of a running memory; messages without text are left out.

    ``when`` is the date of messages that have none. Raises `ConfigError` for other input, or if no message
    has text.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise ConfigError(f"give a text, a document or a list of messages; {MESSAGE_FORM}")
    parsed = [_parse_message(each, when) for each in messages]
    with_text = [each for each in parsed if not (isinstance(each.text, str) and is_blank(each.text))]
    if parsed and not with_text and not any(isinstance(each, Message) for each in messages):
        raise ConfigError(f"no message has any text: there is nothing to remember; {MESSAGE_FORM}")
    return with_text or parsed


def _parse_message(message: MessageLike, when: When | None) -> Message:
    if isinstance(message, Message):
        at = message.when if message.when is not None else when
        return replace(message, when=None if at is None else parse_time(at))
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message) <= MESSAGE_FIELDS:
        raise ConfigError(MESSAGE_FORM)
    at = message.get("when") if message.get("when") is not None else when
    text, role = content_text(message["content"]), _role(message["role"])
    return Message(text, role, None if at is None else parse_time(at))


def _role(role: Any) -> str:
    if not isinstance(role, str):
        raise ConfigError(f"a message's role names its speaker by a text, got {role!r:.80}")
    return role


def parse_history(history: Turns) -> tuple[tuple[tuple[str, str], ...], str]:
    """Parse a history, given as pairs or as messages, into pairs (question, answer) and a system text.

    Consecutive messages of one side are joined; tool messages are left out. Raises `ConfigError` for other
    input.
    """
    if isinstance(history, str | bytes | Mapping) or not isinstance(history, Sequence):
        raise ConfigError(f"a history is a list of (question, answer) or of messages; {MESSAGE_FORM}")
    if any(isinstance(each, Mapping) for each in history):
        return _parse_message_history(history)
    if history and all(_has_role(each) for each in history):  # LangChain's short form, (role, content)
        return _parse_message_history([{"role": each[0], "content": each[1]} for each in history])  # type: ignore[index]
    return tuple(_pairs(history)), ""


def _has_role(turn: object) -> bool:
    return isinstance(turn, tuple | list) and len(turn) == 2 and turn[0] in _ROLES


def _pairs(history: Turns) -> Iterator[tuple[str, str]]:
    for each in history:
        if isinstance(each, str) or not isinstance(each, Sequence) or len(each) != 2:
            raise ConfigError(f"a turn is (question, answer), or the history is messages; {MESSAGE_FORM}")
        yield require_text("history", each[0]), require_text("history", each[1])


def _parse_message_history(history: Turns) -> tuple[tuple[tuple[str, str], ...], str]:
    turns, system = list[tuple[list[str], list[str]]](), list[str]()
    for message in history:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise ConfigError(f"a history has messages or pairs, and not both; {MESSAGE_FORM}")
        role, text = _role(message["role"]), require_text("history", content_text(message["content"]))
        if role in ("system", "developer"):
            system.append(text)
        elif role in ("user", "human"):
            if not turns or turns[-1][1]:
                turns.append(([], []))
            turns[-1][0].append(text)
        elif role in ("assistant", "ai"):
            if not turns:
                turns.append(([], []))
            turns[-1][1].append(text)
        elif role not in ("tool", "function"):
            raise ConfigError(f"a history has messages of user, assistant and system, not of {role!r:.40}")
    pairs = [("\n".join(filter(None, user)), "\n".join(filter(None, model))) for user, model in turns]
    return tuple(pairs), "\n\n".join(filter(None, system))
