"""Key-value caches as plain tensors, and batched decoding over a shared prefix."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from memkit.models.rotary import rotate

MIN_TEMPERATURE = 1e-4  # below it decoding is greedy: dividing by less overflows


class KVPrefix(Protocol):
    """Keys and values in front of a query, as a forward pass takes them."""

    @property
    def tokens(self) -> int:
        """Positions that they occupy."""

    @property
    def cached(self) -> int:
        """Tokens that `cache` holds."""

    def cache(self, batch: int = 1) -> DynamicCache:
        """A transformers cache whose ``batch`` rows all start with these tokens."""

    def inputs(self) -> Mapping[str, Any]:
        """Further arguments of the forward pass."""

    def join(self, other: KVCache) -> KVPrefix:
        """These tokens followed by the ``other`` ones, whose keys are rotated to their positions already."""

    def after(self, other: KVCache | None) -> KVPrefix:
        """The ``other`` tokens, if any, followed by these, which are rotated to their positions already."""


@dataclass(frozen=True)
class KVCache:
    """Keys and values of the first tokens of a sequence.

    ``keys[layer]`` and ``values[layer]`` are ``[batch, kv_heads, tokens, head_dim]``; the keys are
    rotated (RoPE) to their positions.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @property
    def tokens(self) -> int:
        return int(self.keys[0].shape[2])

    @property
    def cached(self) -> int:
        """Tokens that `cache` holds: all."""
        return self.tokens

    def inputs(self) -> Mapping[str, Any]:
        """Nothing: the cache holds everything."""
        return {}

    @classmethod
    def of(cls, cache: DynamicCache) -> KVCache:
        layers: list[Any] = list(cache.layers)  # transformers types them as layers that may hold none
        return cls(tuple(layer.keys for layer in layers), tuple(layer.values for layer in layers))

    def cache(self, batch: int = 1) -> DynamicCache:
        """A transformers cache whose ``batch`` rows all start with these tokens; expanded without a copy."""
        cache = DynamicCache()
        for layer, (k, v) in enumerate(zip(self.keys, self.values, strict=True)):
            shape = (batch, *k.shape[1:])
            cache.update(k.expand(shape), v.expand(shape), layer)
        return cache

    def slice(self, start: int, stop: int | None = None) -> KVCache:
        """Tokens ``[start, stop)``."""
        return KVCache(
            tuple(k[:, :, start:stop] for k in self.keys), tuple(v[:, :, start:stop] for v in self.values)
        )

    def row(self, i: int) -> KVCache:
        """One row of the batch."""
        return KVCache(tuple(k[i : i + 1] for k in self.keys), tuple(v[i : i + 1] for v in self.values))

    def join(self, other: KVCache) -> KVCache:
        """These tokens followed by the ``other`` ones, whose keys must be rotated to their positions
        already."""
        pairs = zip(self.keys, other.keys, self.values, other.values, strict=True)
        joined = [(torch.cat((a, b), 2), torch.cat((c, d), 2)) for a, b, c, d in pairs]
        return KVCache(tuple(k for k, _ in joined), tuple(v for _, v in joined))

    def after(self, other: KVCache | None) -> KVCache:
        """The ``other`` tokens, if any, followed by these."""
        return other.join(self) if other else self

    def shifted(self, offset: int, inv_freq: Tensor) -> KVCache:
        """The same tokens ``offset`` positions later (earlier if negative); ``inv_freq`` is ``[head_dim /
        2]``."""
        by = torch.tensor([offset], device=inv_freq.device)
        return KVCache(tuple(rotate(k, by, inv_freq) for k in self.keys), self.values)


@torch.no_grad()
def prefill(model: PreTrainedModel, ids: Sequence[int], past: KVCache | None = None) -> KVCache:
    """Run the model over ``ids`` after ``past``; returns the keys and values of all tokens.

    Raises `ValueError` without ids and past.
    """
    if not ids:
        if past is None:
            raise ValueError("nothing to read: give ids or a past")
        return past
    start = past.tokens if past else 0
    cache = past.cache() if past else DynamicCache()
    tokens = torch.tensor([list(ids)], device=model.device)
    positions = torch.arange(start, start + len(ids), device=model.device)[None]
    model.base_model(input_ids=tokens, position_ids=positions, past_key_values=cache, use_cache=True)
    return KVCache.of(cache)


@dataclass(frozen=True)
class Packed:
    """Rows of token ids, padded on one side, that continue a shared prefix.

    ``ids`` and ``positions`` are ``[batch, tokens]``; ``mask`` is ``[batch, cached + tokens]``.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor

    @classmethod
    def rows(cls, rows: Sequence[Sequence[int]], prefix: KVPrefix | None, device: Any, left: bool) -> Packed:
        start, cached = (prefix.tokens, prefix.cached) if prefix else (0, 0)
        width = max(len(row) for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        mask = torch.zeros(len(rows), cached + width, dtype=torch.long)
        mask[:, :cached] = 1
        positions = torch.zeros(len(rows), width, dtype=torch.long)
        for i, row in enumerate(rows):
            where = slice(width - len(row), width) if left else slice(0, len(row))
            ids[i, where] = torch.tensor(list(row))
            mask[i, cached + where.start : cached + where.stop] = 1
            positions[i, where] = torch.arange(start, start + len(row))
        return cls(ids.to(device), positions.to(device), mask.to(device))


@dataclass(frozen=True)
class Decoded:
    """The token ids of one row's answer, without its end token.

    ``stopped`` is False if the answer was cut off at ``max_tokens``.
    """

    ids: list[int]
    ttft_ms: float
    stopped: bool = True


class Decoding:
    """Step-by-step decoding of a batch of queries after a shared ``prefix``."""

    def __init__(
        self, model: PreTrainedModel, prefix: KVPrefix | None, queries: Sequence[Sequence[int]]
    ) -> None:
        packed = Packed.rows(queries, prefix, model.device, left=True)
        self._model = model
        self._inputs = prefix.inputs() if prefix else {}
        self._cache = prefix.cache(len(queries)) if prefix else DynamicCache()
        self._ids, self._positions, self._mask = packed.ids, packed.positions, packed.mask

    @torch.no_grad()
    def step(self, temperature: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
        """The next token of each query, ``[row]``: greedy, or sampled at ``temperature``."""
        out = self._model.base_model(
            input_ids=self._ids,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            **self._inputs,
        )
        logprobs = output_layer(self._model)(out.last_hidden_state[:, -1]).float().log_softmax(-1)
        chosen = choose(logprobs, temperature, generator)
        self._ids, self._positions = chosen[:, None], self._positions[:, -1:] + 1
        self._mask = torch.cat((self._mask, self._mask.new_ones(len(chosen), 1)), 1)
        return chosen


def decode(
    model: PreTrainedModel,
    prefix: KVPrefix | None,
    queries: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    end: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[Decoded]:
    """Continue each query after the shared ``prefix``: greedy, or sampled at ``temperature``.

    All rows run as one batch. Rows stop at the token ``end``, which is not part of the answer.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
    started, ttft = time.perf_counter(), 0.0
    decoding = Decoding(model, prefix, queries)
    answers: list[list[int]] = [[] for _ in queries]
    open_rows = set(range(len(queries)))
    for _ in range(max_tokens):
        chosen = decoding.step(temperature, generator).tolist()
        ttft = ttft or (time.perf_counter() - started) * 1000
        for row in list(open_rows):
            if chosen[row] == end:
                open_rows.discard(row)
            else:
                answers[row].append(chosen[row])
        if not open_rows:
            break
    return [Decoded(answer, ttft, row not in open_rows) for row, answer in enumerate(answers)]


def choose(logprobs: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """A token ``[row]`` for each row of ``logprobs [row, vocabulary]``: greedy, or sampled."""
    if temperature < MIN_TEMPERATURE:
        return logprobs.argmax(-1)
    return torch.multinomial((logprobs / temperature).softmax(-1), 1, generator=generator).squeeze(1)


def output_layer(model: PreTrainedModel) -> Any:
    """The module that turns hidden states into logits."""
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError(f"{type(model).__name__} has no output layer")
    return head


@dataclass(frozen=True)
class AnswerBatch:
    """Queries with their answers, right-padded, after a shared prefix.

    ``row`` and ``column`` (each ``[answer tokens]``) index, in ``packed.ids``, the token *before* each
    answer token; ``target`` ``[answer tokens]`` is the answer token itself.
    """

    packed: Packed
    row: Tensor
    column: Tensor
    target: Tensor

    @classmethod
    def of(
        cls, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], prefix: KVPrefix | None, device: Any
    ) -> AnswerBatch:
        """A batch of (query ids, answer ids) after ``prefix``; every answer needs at least one token."""
        packed = Packed.rows([[*q, *a] for q, a in pairs], prefix, device, left=False)
        row, column, target = list[int](), list[int](), list[int]()
        for i, (query, answer) in enumerate(pairs):
            row += [i] * len(answer)
            column += range(len(query) - 1, len(query) + len(answer) - 1)
            target += answer
        tensors = (torch.tensor(x, device=device) for x in (row, column, target))
        return cls(packed, *tensors)


def answer_logits(model: PreTrainedModel, prefix: KVPrefix | None, batch: AnswerBatch) -> Tensor:
    """Logits ``[answer tokens, vocabulary]`` for every answer token; differentiable in ``prefix``."""
    rows = len(batch.packed.ids)
    out = model.base_model(
        input_ids=batch.packed.ids,
        attention_mask=batch.packed.mask,
        position_ids=batch.packed.positions,
        past_key_values=prefix.cache(rows) if prefix else None,
        use_cache=prefix is not None,
        **(prefix.inputs() if prefix else {}),
    )
    hidden: Tensor = out.last_hidden_state
    logits: Tensor = output_layer(model)(hidden[batch.row, batch.column])
    return logits.float()


def entropy(logprobs: Tensor) -> float:
    """Shannon entropy in nats of one distribution ``[vocabulary]`` of log-probabilities."""
    value = float(-(logprobs.exp() * logprobs).nan_to_num().sum())
    return max(value, 0.0) if math.isfinite(value) else math.inf


def chunked(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Consecutive runs of at most ``size`` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]
