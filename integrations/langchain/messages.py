"""LangChain's messages, and what memkit makes of them: the text that is there, and nothing else."""

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

MOST_SAID = 1000  # things: the kinds of parts are what clients call them
LOG = logging.getLogger("memkit.langchain")
_TEXT = ("text", "text-plain", "input_text", "output_text")  # kinds of parts that hold text
# What terminals obey: control sequences, system commands with their end, and short escapes.
_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]*(?:\x07|\x1b\\)|\x1b(?:[ -/]+[0-~]|[0-9=>])"
)
_BREAKS = re.compile(r"\r\n?|[\x0b\x0c\x1c-\x1e\x85]")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Conversation:
    """A conversation that ends with a question; ``left_out`` names the kinds of parts that are no text."""

    question: str
    history: tuple[tuple[str, str], ...]
    system: str
    left_out: tuple[str, ...] = ()


def conversation(messages: Sequence[BaseMessage]) -> Conversation:
    """What a model is asked: the last human message, behind the turns before it and the instructions.

    Messages in a row of one side are joined. What tools gave belongs to the model's side; the question that
    they were called for stays the question, behind a turn of what they gave. Raises `ConfigError` where
    nothing is asked.
    """
    system = "\n\n".join(text_of(m) for m in messages if isinstance(m, SystemMessage))
    left_out = tuple(dict.fromkeys(kind for message in messages for kind in dropped_blocks(message)))
    turns, open_ = list[tuple[list[str], list[str]]](), True
    for message in messages:
        if isinstance(message, SystemMessage):
            continue
        by_tool = isinstance(message, ToolMessage | FunctionMessage)
        answers = by_tool or isinstance(message, AIMessage)
        open_ = by_tool or not answers or (open_ and not text_of(message))
        if not turns or (turns[-1][1] and not answers):
            turns.append(([], []))
        turns[-1][1 if answers else 0].append(text_of(message))
    said = [("\n".join(filter(None, asked)), "\n".join(filter(None, given))) for asked, given in turns]
    if not said or not open_ or is_blank(said[-1][0]):
        hint = f"; memkit reads text only, and leaves out: {', '.join(left_out)}" if left_out else ""
        raise ConfigError(f"the last message must be a question with some text{hint}")
    history = said if said[-1][1] else said[:-1]
    return Conversation(said[-1][0], tuple(history), system, left_out)


def text_of(message: BaseMessage) -> str:
    """A message's text without its other parts, as images, in a form that can be kept (see `clean`)."""
    content: Any = message.content
    parts = content if isinstance(content, list) else [content]
    between = "" if isinstance(message, AIMessage) else "\n"  # a model's parts may end within a word
    return clean(between.join(filter(None, map(_text, parts))))


def dropped_blocks(message: BaseMessage) -> list[str]:
    """The kinds of a message's parts that are no text."""
    parts: Any = message.content if isinstance(message.content, list) else []
    kinds = [part.get("type") if isinstance(part, dict) else None for part in parts if _text(part) is None]
    return [str(kind)[:40] if kind else "a part without a type" for kind in kinds]


def clean(text: str) -> str:
    """A text without what is none: terminals' escape sequences, control characters, halves of characters."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "ignore")  # joins halves that are pairs
    return _CONTROL.sub("", _ESCAPES.sub("", _BREAKS.sub("\n", whole)))


def _text(part: Any) -> str | None:
    """The text of a message's part, None where it is something else."""
    if isinstance(part, str):
        return part
    if isinstance(part, dict) and part.get("type", "text") in _TEXT and isinstance(part.get("text"), str):
        return str(part["text"])
    return None


class OncePerKind:
    """Says each thing once in the log, however often it comes up."""

    def __init__(self) -> None:
        self._said = set[str]()

    def left_out(self, kinds: Iterable[str]) -> None:
        """Say what kinds of parts are not read."""
        for kind in kinds:
            if self._first(f"part {kind}"):
                LOG.warning("memkit reads text only: message parts of the kind %r are left out", kind)

    def failed(self, what: str, error: Exception) -> None:
        """Say that memory failed and the run goes on without it."""
        if self._first(f"{what} {type(error).__name__}"):
            LOG.warning("%s failed, and the run goes on without memory: %s", what, error, exc_info=error)

    def _first(self, what: str) -> bool:
        if what in self._said or len(self._said) >= MOST_SAID:
            return False
        self._said.add(what)
        return True


ROLES: dict[type[BaseMessage], str] = {HumanMessage: "user", AIMessage: "assistant", SystemMessage: "system"}


def role_of(message: BaseMessage) -> str:
    """Who said a message, as a running memory names it."""
    if isinstance(message, ChatMessage):
        role = "".join(c for c in clean(message.role) if c.isprintable())
        return role[:MAX_SPEAKER].strip() or message.type
    if isinstance(message, ToolMessage):
        return "tool"
    return next((role for kind, role in ROLES.items() if isinstance(message, kind)), message.type)


def message_of(speaker: str, text: str) -> BaseMessage:
    """The message of a running memory's entry."""
    kinds = {role: kind for kind, role in ROLES.items()}
    return kinds[speaker](content=text) if speaker in kinds else ChatMessage(role=speaker, content=text)
