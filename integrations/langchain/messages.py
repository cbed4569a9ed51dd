"""Convert LangChain messages to text and back; parts that are not text are dropped."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from memkit.bank.conversation_logs import MAX_SPEAKER
from memkit.errors import ConfigError
from memkit.text.normalize import is_blank

MAX_WARNINGS = 1000  # distinct ones; clients choose the names of message parts
LOG = logging.getLogger("memkit.langchain")
_TEXT_KINDS = ("text", "text-plain", "input_text", "output_text")  # message parts with text
# Terminal escapes: control sequences, operating system commands and short escapes.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)|\x1b(?:[ -/]+[0-~]|[0-9=>])"
)
_LINE_BREAKS = re.compile(r"\r\n?|[\x0b\x0c\x1c-\x1e\x85]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Conversation:
    """A conversation that ends with a question.

    ``history`` are the earlier turns (question, answer), ``system`` the system messages. ``left_out`` are
    the kinds of message parts that are not text.
    """

    question: str
    history: tuple[tuple[str, str], ...]
    system: str
    left_out: tuple[str, ...] = ()


def parse_conversation(messages: Sequence[BaseMessage]) -> Conversation:
    """Split messages into the question, the turns before it and the system text.

    The question is the last human message. Consecutive messages of one side are joined. Tool results count
    as the model's side: if they follow the question, it stays the question, and its turn with the results
    is also part of the history. Raises `ConfigError` if the conversation does not end with a question.
    """
    system = "\n\n".join(text_of(m) for m in messages if isinstance(m, SystemMessage))
    left_out = tuple(dict.fromkeys(kind for message in messages for kind in dropped_kinds(message)))
    turns, unanswered = list[tuple[list[str], list[str]]](), True
    for message in messages:
        if isinstance(message, SystemMessage):
            continue
        from_tool = isinstance(message, ToolMessage | FunctionMessage)
        from_model = from_tool or isinstance(message, AIMessage)
        unanswered = from_tool or not from_model or (unanswered and not text_of(message))
        if not turns or (turns[-1][1] and not from_model):
            turns.append(([], []))
        turns[-1][1 if from_model else 0].append(text_of(message))
    pairs = [("\n".join(filter(None, human)), "\n".join(filter(None, model))) for human, model in turns]
    if not pairs or not unanswered or is_blank(pairs[-1][0]):
        hint = f"; memkit reads text only, and leaves out: {', '.join(left_out)}" if left_out else ""
        raise ConfigError(f"the last message must be a question with some text{hint}")
    history = pairs if pairs[-1][1] else pairs[:-1]
    return Conversation(pairs[-1][0], tuple(history), system, left_out)


def text_of(message: BaseMessage) -> str:
    """The cleaned text of a message (see `clean`), without other parts such as images."""
    content: Any = message.content
    parts = content if isinstance(content, list) else [content]
    separator = "" if isinstance(message, AIMessage) else "\n"  # a model's part may end within a word
    return clean(separator.join(filter(None, map(_text, parts))))


def dropped_kinds(message: BaseMessage) -> list[str]:
    """The kinds of the message parts that are not text."""
    parts: Any = message.content if isinstance(message.content, list) else []
    kinds = [part.get("type") if isinstance(part, dict) else None for part in parts if _text(part) is None]
    return [str(kind)[:40] if kind else "a part without a type" for kind in kinds]


def clean(text: str) -> str:
    """A text without terminal escape sequences, control characters and lone surrogates."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "ignore")  # joins surrogate pairs
    return _CONTROL.sub("", _ESCAPES.sub("", _LINE_BREAKS.sub("\n", whole)))


def _text(part: Any) -> str | None:
    """The text of a message part, None if it is something else."""
    if isinstance(part, str):
        return part
    if (
        isinstance(part, dict)
        and part.get("type", "text") in _TEXT_KINDS
        and isinstance(part.get("text"), str)
    ):
        return str(part["text"])
    return None


class WarnOnce:
    """Logs each warning once, however often it occurs."""

    def __init__(self) -> None:
        self._logged = set[str]()

    def left_out(self, kinds: Iterable[str]) -> None:
        """Warn that message parts of these kinds are ignored."""
        for kind in kinds:
            if self._first(f"part {kind}"):
                LOG.warning("memkit reads text only: message parts of the kind %r are left out", kind)

    def failed(self, what: str, error: Exception) -> None:
        """Warn that ``what`` failed and that the run continues without memory."""
        if self._first(f"{what} {type(error).__name__}"):
            LOG.warning("%s failed, and the run goes on without memory: %s", what, error, exc_info=error)

    def _first(self, what: str) -> bool:
        if what in self._logged or len(self._logged) >= MAX_WARNINGS:
            return False
        self._logged.add(what)
        return True


ROLES: dict[type[BaseMessage], str] = {HumanMessage: "user", AIMessage: "assistant", SystemMessage: "system"}


def role_of(message: BaseMessage) -> str:
    """The speaker of a message, as a running memory stores it."""
    if isinstance(message, ChatMessage):
        role = "".join(c for c in clean(message.role) if c.isprintable())
        return role[:MAX_SPEAKER].strip() or message.type
    if isinstance(message, ToolMessage):
        return "tool"
    return next((role for kind, role in ROLES.items() if isinstance(message, kind)), message.type)


def message_of(speaker: str, text: str) -> BaseMessage:
    """The message for an entry of a running memory."""
    kinds = {role: kind for kind, role in ROLES.items()}
    return kinds[speaker](content=text) if speaker in kinds else ChatMessage(role=speaker, content=text)
