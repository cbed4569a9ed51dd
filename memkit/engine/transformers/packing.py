"""Batches whose rows hold several sequences, one after the other, none of which sees another.

A batch of one sequence a row is as wide as the longest one; here rows are filled, so that hardly a token is
padding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import repeat
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from memkit.engine.transformers.kv_cache import AnswerBatch, KVPrefix, Packed
from memkit.engine.transformers.ragged import NAME as RAGGED
from memkit.models.kv_shape import sliding

ROW_TOKENS = 256  # of a row, about; attention compares all tokens of a row with each other

Pair = tuple[Sequence[int], Sequence[int]]  # token ids of a query and its answer


def packed_answers(
    pairs: Sequence[Pair], prefix: KVPrefix | None, device: Any, row_tokens: int = ROW_TOKENS
) -> AnswerBatch:
    """Queries and their answers like those of `AnswerBatch.of`, for a model without sliding windows.

    ``packed.mask`` is ``[batch, 1, token, cached + token]`` (bool): what each token attends to.
    """
    places, (batch, width) = _placed([len(query) + len(answer) for query, answer in pairs], row_tokens)
    start, cached = (prefix.tokens, prefix.cached) if prefix else (0, 0)
    ids, positions = (torch.zeros(batch, width, dtype=torch.long) for _ in range(2))
    sequence = torch.full((batch, width), -1)  # which one a token belongs to
    row, column, target = list[int](), list[int](), list[int]()
    for number, ((query, answer), (at, first)) in enumerate(zip(pairs, places, strict=True)):
        whole = [*query, *answer]
        where = slice(first, first + len(whole))
        ids[at, where], sequence[at, where] = torch.tensor(whole), number
        positions[at, where] = torch.arange(start, start + len(whole))
        row += repeat(at, len(answer))
        column += range(first + len(query) - 1, first + len(whole) - 1)
        target += answer
    packed = Packed(ids.to(device), positions.to(device), _mask(sequence, cached).to(device))
    return AnswerBatch(packed, *(torch.tensor(part, device=device) for part in (row, column, target)))


def answer_batch(model: PreTrainedModel, pairs: Sequence[Pair], prefix: KVPrefix | None) -> AnswerBatch:
    """`packed_answers`, or one sequence a row where its mask is not understood: eager attention would add it,
    and sliding windows would be ignored."""
    takes_mask = model.config._attn_implementation in ("sdpa", RAGGED)
    if not takes_mask or sliding(model.config):
        return AnswerBatch.of(pairs, prefix, model.device)
    return packed_answers(pairs, prefix, model.device)


def _placed(lengths: Sequence[int], row_tokens: int) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """The row and first column of each sequence, and the shape of the batch: long ones first, each into the
    emptiest row."""
    fill = [0] * math.ceil(sum(lengths) / max(row_tokens, *lengths))
    places = [(0, 0)] * len(lengths)
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        at = fill.index(min(fill))
        places[number] = at, fill[at]
        fill[at] += lengths[number]
    return places, (len(fill), max(fill))


def _mask(sequence: Tensor, cached: int) -> Tensor:
    """What each token attends to: the prefix, and its own sequence up to itself; padding, only itself."""
    batch, width = sequence.shape
    own = (sequence[:, :, None] == sequence[:, None, :]) & (sequence[:, :, None] >= 0)
    own = own.tril() | torch.eye(width, dtype=torch.bool)
    seen = torch.ones(batch, width, cached, dtype=torch.bool)
    return torch.cat((seen, own), 2)[:, None]
