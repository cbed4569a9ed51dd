"""Messages as everybody has them, ``{"role": ..., "content": ...}``, and what memkit makes of them."""

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
SHAPE = 'a message is {"role": ..., "content": ...}, perhaps with a date as "when"'
# What the messages of chat APIs have beside that; none of it is text that somebody said.
BESIDE = frozenset(
    "role content when id name type refusal audio annotations tool_calls tool_call_id function_call "
    "reasoning reasoning_content status".split()
)


def content_text(content: Any) -> str:
    """The text of a message's content: a text, or parts of which those that are none are left out.

    Raises `ConfigError` for anything else.
    """
    if content is None:  # of a message that only calls tools
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
    """A text that can be encoded, or `ConfigError`."""
    if not isinstance(text, str):
        raise ConfigError(f"the {what} must be a text, got {text!r:.80}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"the {what} holds half a character (a lone surrogate) at {error.start}: decode it anew"
        ) from error
    return text


def messages_of(messages: Sequence[MessageLike], when: When | None) -> list[Message]:
    """The entries of messages, said at ``when`` unless they say it themselves; those without text are left
    out. Raises `ConfigError`."""
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise ConfigError(f"give a text, a document or a list of messages; {SHAPE}")
    found = [_entry(each, when) for each in messages]
    with_text = [each for each in found if not (isinstance(each.text, str) and is_blank(each.text))]
    if found and not with_text and not any(isinstance(each, Message) for each in messages):
        raise ConfigError(f"no message holds a text: there is nothing to remember; {SHAPE}")
    return with_text or found


def _entry(said: MessageLike, when: When | None) -> Message:
    if isinstance(said, Message):
        at = said.when if said.when is not None else when
        return replace(said, when=None if at is None else parse_time(at))
    if not isinstance(said, Mapping) or not {"role", "content"} <= set(said) <= BESIDE:
        raise ConfigError(SHAPE)
    at = said.get("when") if said.get("when") is not None else when
    return Message(content_text(said["content"]), _role(said["role"]), None if at is None else parse_time(at))


def _role(role: Any) -> str:
    if not isinstance(role, str):
        raise ConfigError(f"a message's role names its speaker by a text, got {role!r:.80}")
    return role


def parse_history(history: Turns) -> tuple[tuple[tuple[str, str], ...], str]:
    """Earlier questions with their answers, and the instructions among them, of pairs or of messages.

    Messages in a row of one side are joined; what a tool said is left out. Raises `ConfigError`.
    """
    if isinstance(history, str | bytes | Mapping) or not isinstance(history, Sequence):
        raise ConfigError(f"a history is a list of (question, answer) or of messages; {SHAPE}")
    if any(isinstance(each, Mapping) for each in history):
        return _of_messages(history)
    if history and all(_says_role(each) for each in history):  # LangChain's short form of messages
        return _of_messages([{"role": each[0], "content": each[1]} for each in history])  # type: ignore[index]
    return tuple(_pairs(history)), ""


def _says_role(turn: object) -> bool:
    return isinstance(turn, tuple | list) and len(turn) == 2 and turn[0] in _ROLES


def _pairs(history: Turns) -> Iterator[tuple[str, str]]:
    for each in history:
        if isinstance(each, str) or not isinstance(each, Sequence) or len(each) != 2:
            raise ConfigError(f"a turn is (question, answer), or the history is messages; {SHAPE}")
        yield require_text("history", each[0]), require_text("history", each[1])


def _of_messages(history: Turns) -> tuple[tuple[tuple[str, str], ...], str]:
    found, system = list[tuple[list[str], list[str]]](), list[str]()
    for message in history:
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise ConfigError(f"a history has messages or pairs, and not both; {SHAPE}")
        role, text = _role(message["role"]), require_text("history", content_text(message["content"]))
        if role in ("system", "developer"):
            system.append(text)
        elif role in ("user", "human"):
            if not found or found[-1][1]:
                found.append(([], []))
            found[-1][0].append(text)
        elif role in ("assistant", "ai"):
            if not found:
                found.append(([], []))
            found[-1][1].append(text)
        elif role not in ("tool", "function"):
            raise ConfigError(f"a history has messages of user, assistant and system, not of {role!r:.40}")
    pairs = tuple(("\n".join(filter(None, asked)), "\n".join(filter(None, said))) for asked, said in found)
    return pairs, "\n\n".join(filter(None, system))
