"""A conversation's messages as the engine reads them: earlier turns, question and instructions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memkit.server.api_errors import ApiError
from memkit.server.schemas import ChatMessage, EarlierMessage
from memkit.text.messages import parse_history

Pair = tuple[str, str]
SIDES = ("user", "assistant")  # of a turn


def split_conversation(messages: Sequence[ChatMessage]) -> tuple[tuple[Pair, ...], str, str]:
    """Earlier turns, the question and the instructions of a conversation."""
    turns, instructions = _folded(messages)
    if not turns or len(turns[-1]) != 1:
        raise ApiError(400, "the last message must be the user's question", "invalid_value", "messages")
    return _pairs(turns[:-1]), turns[-1][0], instructions


def parse_earlier(history: Sequence[Pair | EarlierMessage]) -> tuple[tuple[Pair, ...], str]:
    """The turns and instructions before a question, of pairs or messages.

    Raises `ConfigError` for what `memkit.Memory` does not take either.
    """
    if not any(isinstance(each, EarlierMessage) for each in history):
        return parse_history([each for each in history if not isinstance(each, EarlierMessage)])
    messages = list[dict[str, Any]]()
    for each in history:
        if isinstance(each, EarlierMessage):
            messages.append({"role": each.role, "content": each.content})
        else:
            messages += [{"role": role, "content": text} for role, text in zip(SIDES, each, strict=True)]
    return parse_history(messages)


def _folded(messages: Sequence[ChatMessage]) -> tuple[list[list[str]], str]:
    """The user's messages, each with the answers to it, and all instructions."""
    instructions, turns = list[str](), list[list[str]]()
    for number, message in enumerate(messages):
        text = _text(message, f"messages.{number}")
        if message.role in ("system", "developer"):
            instructions.append(text)
        elif message.role == "user":
            turns.append([text])
        elif message.role != "assistant":
            advice = "the model here calls no tools, and reads none of their results"
            raise ApiError(400, advice, "unsupported", "messages")
        elif turns:
            turns[-1].append(text)
    return turns, "\n\n".join(filter(None, instructions))


def _pairs(turns: list[list[str]]) -> tuple[Pair, ...]:
    return tuple((turn[0], "\n".join(turn[1:])) for turn in turns)


def _text(message: ChatMessage, where: str) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    if any(part.type not in ("text", "refusal") for part in message.content):
        raise ApiError(
            400, "the model here reads text only: leave out other parts", "unsupported", f"{where}.content"
        )
    return "\n".join(part.text or "" for part in message.content)
