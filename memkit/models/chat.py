"""A model's chat template, split where the context begins and where the answer begins."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEPARATOR = "\n\n"  # between a context (or the artifact in its place) and the question
_MARKER = re.compile(r"[<\[]\S+[>\]]")  # the form of control tokens' names
_SENTINEL = "\u2603sentinel\u2603"


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """The token ids of user text, without control tokens.

    The name of a control token in the text, such as ``<|im_end|>``, is encoded as plain characters, so that
    no text can imitate the chat template.
    """
    ids = _encoded(tokenizer, text)
    control = _control(tokenizer)
    if control.isdisjoint(ids):
        return ids
    # Tokens that were added without being declared special are avoided by encoding their names in two parts.
    names = [tokenizer.added_tokens_decoder[id].content for id in sorted(control)]
    parts = re.split("|".join(f"(?<={re.escape(n[:1])})(?={re.escape(n[1:])})" for n in names if n[1:]), text)
    return [id for part in parts for id in _encoded(tokenizer, part) if id not in control]


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True, verbose=False))


@lru_cache(maxsize=4)  # the tokenizer rebuilds the table at each access
def _control(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The ids of control tokens: special ones, and others with names of their form."""
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(id for id, token in added if token.special or _MARKER.fullmatch(token.content))


@dataclass(frozen=True)
class ChatFormat:
    """The token ids around the content of a one-turn prompt.

    A prompt is ``header + [context] + query``; see `query`. Its parts are tokenized separately, so that an
    artifact can replace the context without moving a token boundary.
    """

    header: tuple[int, ...]
    tail: tuple[int, ...]  # closes the user turn and opens the assistant's
    turn: tuple[int, ...]  # after an answer: opens the next user turn
    end: int  # the token that ends an answer

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
        """Split the tokenizer's chat template; a tokenizer without one gets plain text turns.

        An answer ends with the control token that closes it in the template, else with the tokenizer's
        end-of-sequence token: the latter may be another one, in particular if it comes from a GGUF file.
        Raises `ValueError` for a tokenizer without an end-of-sequence token.
        """

        def ids(text: str) -> tuple[int, ...]:
            return tuple(tokenizer.encode(text, add_special_tokens=False))

        end = tokenizer.eos_token_id
        if not isinstance(end, int):
            raise ValueError("the tokenizer has no end-of-sequence token")
        if tokenizer.chat_template is None:
            bos = () if tokenizer.bos_token_id is None else (int(tokenizer.bos_token_id),)
            return cls(bos, ids("\nAnswer:"), ids("\n"), end)

        def render(turns: list[dict[str, str]], generate: bool) -> str:
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=generate)
            return str(text)

        user = {"role": "user", "content": _SENTINEL}
        answer = {"role": "assistant", "content": _SENTINEL}
        header, tail = render([user], True).split(_SENTINEL)
        rest = render([user, answer, user], True).split(_SENTINEL)[2]
        if (first := ids(rest)[:1]) and first[0] in {end, *_control(tokenizer)}:
            end = first[0]
            rest = rest.removeprefix(tokenizer.added_tokens_decoder[end].content)
        return cls(ids(header), ids(tail), ids(rest), end)

    def query(
        self,
        tokenizer: PreTrainedTokenizerBase,
        question: str,
        with_context: bool,
        history: Sequence[tuple[str, str]] = (),
        system: str = "",
    ) -> list[int]:
        """The token ids after the context (or after the bare header): separator, question, tail.

        ``with_context`` tells whether a context, or an artifact in its place, precedes the query.
        ``history`` holds earlier questions and answers, which go between the context and the question; the
        instructions ``system`` go in front of the first of them.
        """
        ids, separator = list[int](), SEPARATOR if with_context else ""
        separator += system + SEPARATOR if system else ""
        for earlier, answer in history:
            ids += text_ids(tokenizer, separator + earlier)
            ids += [*self.tail, *text_ids(tokenizer, answer), self.end, *self.turn]
            separator = ""
        return [*ids, *text_ids(tokenizer, separator + question), *self.tail]
