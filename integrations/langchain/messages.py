"""LangChain's messages, and what memkit makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from memkit.errors import ConfigError


@dataclass(frozen=True)
class Conversation:
    """A conversation that ends with a question."""

    question: str
    history: tuple[tuple[str, str], ...]
    system: str


def conversation(messages: Sequence[BaseMessage]) -> Conversation:
    """What a model is asked: the last human message, behind the turns before it and the instructions.

    Messages in a row of one side are joined. Raises `ConfigError` where nothing is asked.
    """
    system = "\n\n".join(text_of(m) for m in messages if isinstance(m, SystemMessage))
    turns = list[tuple[list[str], list[str]]]()
    for message in messages:
        if isinstance(message, SystemMessage):
            continue
        answers = isinstance(message, AIMessage)
        if not turns or (turns[-1][1] and not answers):
            turns.append(([], []))
        turns[-1][1 if answers else 0].append(text_of(message))
    said = [("\n".join(filter(None, asked)), "\n".join(filter(None, given))) for asked, given in turns]
    if not said or said[-1][1] or not said[-1][0].strip():
        raise ConfigError("the last message must be a question with some text")
    return Conversation(said[-1][0], tuple(said[:-1]), system)


def text_of(message: BaseMessage) -> str:
    """A message's text. Raises `ConfigError` for one that holds more than text, as an image."""
    blocks = message.content if isinstance(message.content, list) else []
    for block in blocks:
        if isinstance(block, dict) and block.get("type") not in (
            "text",
            "reasoning",
            "tool_use",
            "tool_call",
        ):
            raise ConfigError(f"memkit reads text only, and a message holds {block.get('type')!r}")
    return str(message.text)


ROLES: dict[type[BaseMessage], str] = {HumanMessage: "user", AIMessage: "assistant", SystemMessage: "system"}


def role_of(message: BaseMessage) -> str:
    """Who said a message, as a running memory names it."""
    if isinstance(message, ChatMessage):
        return message.role
    if isinstance(message, ToolMessage):
        return "tool"
    return next((role for kind, role in ROLES.items() if isinstance(message, kind)), message.type)


def message_of(speaker: str, text: str) -> BaseMessage:
    """The message of a running memory's entry."""
    kinds = {role: kind for kind, role in ROLES.items()}
    return kinds[speaker](content=text) if speaker in kinds else ChatMessage(role=speaker, content=text)
