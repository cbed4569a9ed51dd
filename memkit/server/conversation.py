"""Messages of a conversation as the model here reads them: earlier turns, and instructions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memkit.server.api_errors import ApiError
from memkit.server.schemas import ChatMessage, EarlierMessage
from memkit.text.messages import parse_history

Pair = tuple[str, str]
SIDES = ("user", "assistant")  # of a pair


def split_conversation(messages: Sequence[ChatMessage]) -> tuple[tuple[Pair, ...], str, str]:
    """Earlier turns, the question and the instructions of a conversation."""
    said, instructions = _folded(messages)
    if not said or len(said[-1]) != 1:
        raise ApiError(400, "the last message must be the user's question", "invalid_value", "messages")
    return _pairs(said[:-1]), said[-1][0], instructions


def parse_earlier(history: Sequence[Pair | EarlierMessage]) -> tuple[tuple[Pair, ...], str]:
    """Turns and instructions of what was said before a question: pairs, or messages.

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
    """What the user said, each with the answers to it; and all instructions."""
    instructions, said = list[str](), list[list[str]]()
    for number, message in enumerate(messages):
        text = _text(message, f"messages.{number}")
        if message.role in ("system", "developer"):
            instructions.append(text)
        elif message.role == "user":
            said.append([text])
        elif message.role != "assistant":
            advice = "the model here calls no tools, and reads none of their results"
            raise ApiError(400, advice, "unsupported", "messages")
        elif said:
            said[-1].append(text)
    return said, "\n\n".join(filter(None, instructions))


def _pairs(said: list[list[str]]) -> tuple[Pair, ...]:
    return tuple((turn[0], "\n".join(turn[1:])) for turn in said)


def _text(message: ChatMessage, where: str) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    if any(part.type not in ("text", "refusal") for part in message.content):
        raise ApiError(
            400, "the model here reads text only: leave out other parts", "unsupported", f"{where}.content"
        )
    return "\n".join(part.text or "" for part in message.content)
