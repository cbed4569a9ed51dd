"""Messages of a conversation as the model here reads them: earlier turns, and instructions."""

from __future__ import annotations

from collections.abc import Sequence

from memkit.server.refusals import ApiError
from memkit.server.schemas import ChatMessage

Pair = tuple[str, str]


def turns_in(messages: Sequence[ChatMessage]) -> tuple[tuple[Pair, ...], str, str]:
    """Earlier turns, the question and the instructions of a conversation."""
    turns, instructions = _folded(messages, "messages")
    if not turns or len(turns[-1]) != 1:
        raise ApiError(400, "the last message must be the user's question", "invalid_value", "messages")
    return _pairs(turns[:-1]), turns[-1][0], instructions


def earlier(history: Sequence[Pair | ChatMessage]) -> tuple[tuple[Pair, ...], str]:
    """Turns and instructions of what was said before a question: pairs, or messages."""
    turns, instructions = _folded(history, "history")
    return _pairs(turns), instructions


def _folded(messages: Sequence[Pair | ChatMessage], where: str) -> tuple[list[list[str]], str]:
    """What the user said, each with the answers to it; and all instructions."""
    instructions, turns = list[str](), list[list[str]]()
    for number, message in enumerate(messages):
        if not isinstance(message, ChatMessage):
            turns.append(list(message))
            continue
        text = _text(message, f"{where}.{number}")
        if message.role in ("system", "developer"):
            instructions.append(text)
        elif message.role == "user":
            turns.append([text])
        elif message.role != "assistant":
            said = "the model here calls no tools, and reads none of their results"
            raise ApiError(400, said, "unsupported", where)
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
