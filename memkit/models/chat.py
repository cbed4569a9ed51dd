"""The chat template of a model, cut where the context begins and where the answer begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEPARATOR = "\n\n"  # between a context (or the artifact that stands for it) and the question
_SENTINEL = "\u2603sentinel\u2603"


@dataclass(frozen=True)
class ChatFormat:
    """Token ids around the content of a one-turn prompt.

    A prompt is ``header + [context] + query``; see `query`. Pieces are tokenized apart, so that a
    context can be replaced by an artifact without moving a token boundary.
    """

    header: tuple[int, ...]
    tail: tuple[int, ...]  # closes the user turn and opens the assistant's
    turn: tuple[int, ...]  # after an answer: opens the next user turn
    end: int  # the token that ends an answer

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
        """Cut the tokenizer's chat template; a tokenizer without one gets plain text turns."""

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
        eos = str(tokenizer.eos_token)
        turn = rest.removeprefix(eos) if rest.startswith(eos) else rest
        return cls(ids(header), ids(tail), ids(turn), end)

    def query(
        self,
        tokenizer: PreTrainedTokenizerBase,
        question: str,
        with_context: bool,
        history: Sequence[tuple[str, str]] = (),
        system: str = "",
    ) -> list[int]:
        """Ids that follow the context (or the bare header): separator, question, tail.

        ``history`` holds earlier questions and answers, which stand between the context and the question;
        the instructions ``system`` stand in front of the first of them.
        """
        ids, separator = list[int](), SEPARATOR if with_context else ""
        separator += system + SEPARATOR if system else ""
        for asked, answer in history:
            ids += tokenizer.encode(separator + asked, add_special_tokens=False)
            ids += [*self.tail, *tokenizer.encode(answer, add_special_tokens=False), self.end, *self.turn]
            separator = ""
        return [*ids, *tokenizer.encode(separator + question, add_special_tokens=False), *self.tail]
