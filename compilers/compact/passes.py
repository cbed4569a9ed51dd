"""The texts of the reference passes: the document's repetition, and questions about its sentences.

Both read the text again as an answer, in chunks, so that memory grows with the chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memkit.document import sentences
from memkit.models.chat import text_ids
from memkit.models.loading import LoadedModel
from memkit.prompts import phrase_questions

REPEAT = "Please repeat the text."
REPEAT_FROM = "Please repeat the text from here on: {start}"
START_TOKENS = 8  # of a later chunk that the request to repeat it quotes


@dataclass(frozen=True)
class Pass:
    """Token ids that are read behind the text; ``span``, in tokens, is the part of it that they are about."""

    span: slice
    ids: Sequence[int]


def repetitions(base: LoadedModel, ids: Sequence[int], chunk: int) -> Iterator[Pass]:
    """A request to repeat each chunk of a text with the token ids ``ids``, and the chunk as its answer."""
    chat, tokenizer = base.chat, base.tokenizer
    for at in range(0, len(ids), chunk):
        part = ids[at : at + chunk]
        quoted = str(tokenizer.decode(list(part[:START_TOKENS])))
        request = REPEAT if not at else REPEAT_FROM.format(start=quoted)
        end = [chat.end] if at + len(part) == len(ids) else []
        yield Pass(slice(at, at + len(part)), [*chat.query(tokenizer, request, True), *part, *end])


def dialogues(base: LoadedModel, ids: Sequence[int], chunk: int, seed: int) -> Iterator[Pass]:
    """Conversations of at most ``chunk`` tokens: a question about a phrase of each sentence of a text, made
    by rule, and the sentence as its answer."""
    for at in range(0, len(ids), chunk):
        part = ids[at : at + chunk]
        span, turns = slice(at, at + len(part)), list[int]()
        for turn in _turns(base, str(base.tokenizer.decode(list(part))), seed):
            follows = [*(base.chat.turn if turns else ()), *turn]
            if turns and len(turns) + len(follows) > chunk:
                yield Pass(span, turns)
                turns, follows = [], list(turn)
            turns += follows[:chunk]
        if turns:
            yield Pass(span, turns)


def _turns(base: LoadedModel, text: str, seed: int) -> Iterator[list[int]]:
    """The token ids of a question about each sentence with the sentence as its answer."""
    chat, tokenizer = base.chat, base.tokenizer
    for place in sentences(text):
        sentence = text[place.start : place.end]
        for question in phrase_questions(sentence, 1, seed):
            yield [*chat.query(tokenizer, question, True), *text_ids(tokenizer, sentence), chat.end]
