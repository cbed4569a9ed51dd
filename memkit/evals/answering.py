"""Greedy answers to a batch of questions, with earlier answers as drafts.

One pass over each question and its draft yields the states that a divergence is computed from. It also
verifies the draft, as in speculative decoding (Leviathan et al., 2023, §2): an answer is decoded only from
the first token that differs from its draft. Answers that have ended leave the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import DynamicCache

from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.prefixes import Prefix

MAX_BATCH = 16  # rows that are answered together
HEAD_TOKENS = 128  # whose logits are computed together
MAX_KEYS = 1 << 15  # tokens in their caches together, above which fewer rows are


@dataclass(frozen=True)
class Question:
    """The token ids of a question, and of another method's answer as a ``draft`` ([]: none).

    The answer has at most ``limit`` tokens.
    """

    ids: Sequence[int]
    limit: int
    draft: Sequence[int] = ()

    @property
    def room(self) -> int:
        """The tokens that the question and its answer take at most."""
        return len(self.ids) + max(len(self.draft), self.limit)


@dataclass(frozen=True)
class Answer:
    """The ``tokens`` of an answer, with the end token if it was reached.

    ``states [token, hidden]`` are the hidden states that predict each token of the draft, or of the answer
    itself where there is no draft.
    """

    tokens: list[int]
    states: Tensor = field(repr=False)


def answer(reader: Prefix, questions: Sequence[Question], end: int) -> list[Answer]:
    """Answer each question after the same prefix, in batches of at most `MAX_BATCH` and `MAX_KEYS`."""
    answers = list[Answer]()
    for group in _groups(questions, reader.tokens):
        answers += _Batch(reader, group, end).run()
    return answers


def _groups(questions: Sequence[Question], start: int) -> Iterator[list[Question]]:
    group, width = list[Question](), 0
    for question in questions:
        longest = max(width, start + question.room)
        if group and (len(group) == MAX_BATCH or (len(group) + 1) * longest > MAX_KEYS):
            yield group
            group, longest = [], start + question.room
        group.append(question)
        width = longest
    if group:
        yield group


class _Batch:
    def __init__(self, reader: Prefix, questions: Sequence[Question], end: int) -> None:
        self.model, self.prefix, self.start = reader.model, reader.prefix, reader.tokens
        self.cached = reader.prefix.cached if reader.prefix else 0  # tokens of the prefix in the cache
        self.inputs = reader.prefix.inputs() if reader.prefix else {}
        self.questions, self.end = questions, end
        self.said: list[list[int]] = []
        self.states: list[list[Tensor]] = []  # of each row, in parts [token, hidden]

    @torch.no_grad()
    def run(self) -> list[Answer]:
        rows = [[*q.ids, *q.draft[:-1]] for q in self.questions]
        packed = kv_cache.Packed.rows(rows, self.prefix, self.model.device, left=False)
        cache = self.prefix.cache(len(rows)) if self.prefix else DynamicCache()
        hidden = self._forward(packed.ids, packed.mask, packed.positions, cache)
        mask = packed.mask
        for i, question in enumerate(self.questions):
            first = len(question.ids) - 1
            self.states.append([hidden[i, first : first + max(len(question.draft), 1)]])
        for i, (question, predicted) in enumerate(zip(self.questions, self._predicted(), strict=True)):
            said = _verified(predicted, question.draft)[: question.limit]
            self.said.append(said)
            mask[i, self.cached + len(question.ids) + len(said) - 1 :] = 0  # padding, and what was not said
        self._continue(cache, mask)
        return [Answer(said, torch.cat(states)) for said, states in zip(self.said, self.states, strict=True)]

    def _predicted(self) -> list[list[int]]:
        """The likeliest token of each state."""
        head, states = kv_cache.output_layer(self.model), [parts[0] for parts in self.states]
        best = torch.cat([head(part).argmax(-1) for part in torch.cat(states).split(HEAD_TOKENS)])
        return [tokens.tolist() for tokens in best.split([len(each) for each in states])]

    def _continue(self, cache: DynamicCache, mask: Tensor) -> None:
        """Decode the rest of the answers; ``mask [row, token]`` is of the tokens in the cache."""
        head, device, rows = kv_cache.output_layer(self.model), self.model.device, range(len(self.said))
        in_cache = list(rows)
        while going := [row for row in in_cache if not self._ended(row)]:
            if going != in_cache:
                kept = torch.tensor([in_cache.index(row) for row in going], device=device)
                cache.batch_select_indices(kept)
                mask, in_cache = mask[kept], going
            ids = torch.tensor([[self.said[row][-1]] for row in going], device=device)
            positions = torch.tensor([[self._position(row)] for row in going], device=device)
            mask = torch.cat((mask, mask.new_ones(len(going), 1)), 1)
            hidden = self._forward(ids, mask, positions, cache)[:, -1]
            for row, state, token in zip(going, hidden, head(hidden).argmax(-1).tolist(), strict=True):
                self.said[row].append(token)
                if not self.questions[row].draft:
                    self.states[row].append(state[None])

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        """Hidden states ``[row, token, hidden]``."""
        out = self.model.base_model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **self.inputs,
        )
        hidden: Tensor = out.last_hidden_state
        return hidden

    def _ended(self, row: int) -> bool:
        said = self.said[row]
        return said[-1] == self.end or len(said) >= self.questions[row].limit

    def _position(self, row: int) -> int:
        """The position of the last token that a row has said."""
        return self.start + len(self.questions[row].ids) + len(self.said[row]) - 1


def _verified(predicted: list[int], draft: Sequence[int]) -> list[int]:
    """The predicted tokens up to the first that differs from the draft, and that one."""
    for i, (token, drafted) in enumerate(zip(predicted, draft, strict=False)):
        if token != drafted:
            return predicted[: i + 1]
    return predicted
