"""Probe questions: prefill a question after several candidate memories in one pass, to answer it later."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel

from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.ragged import MEMORY, RaggedBatch, RaggedKV


@dataclass(frozen=True)
class Prefilled:
    """A query that was prefilled after ``prefix``: its own keys and values, to continue from.

    ``logprobs [vocabulary]`` are the first answer token's; ``hidden [hidden]`` is the state that predicts it.
    """

    prefix: kv_cache.KVPrefix | None
    query: kv_cache.KVCache
    logprobs: Tensor
    hidden: Tensor


@torch.no_grad()
def prefill_side_by_side(
    model: PreTrainedModel, prefixes: Sequence[kv_cache.KVPrefix | None], queries: Sequence[Sequence[int]]
) -> list[Prefilled]:
    """Prefill each query after its own prefix, all in one batch padded to the longest."""
    start = side_by_side(prefixes)
    width = max(len(query) for query in queries)
    ids = torch.zeros(len(queries), width, dtype=torch.long)
    mask = torch.zeros(len(queries), start.cached + width, dtype=torch.long)
    for i, query in enumerate(queries):
        ids[i, : len(query)] = torch.tensor(list(query))
        # left-padded prefix, right-padded query
        mask[i, start.cached - start.lengths[i] : start.cached + len(query)] = 1
    lengths = torch.tensor([prefix.tokens if prefix else 0 for prefix in prefixes])
    positions, device = lengths[:, None] + torch.arange(width)[None], model.device
    out = model.base_model(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        position_ids=positions.to(device),
        past_key_values=start.cache,
        use_cache=True,
        **start.inputs,
    )
    last = torch.tensor([len(query) - 1 for query in queries], device=device)
    hidden = out.last_hidden_state[torch.arange(len(queries), device=device), last]
    logprobs = kv_cache.output_layer(model)(hidden).float().log_softmax(-1)
    rows = kv_cache.KVCache.of(start.cache)
    return [
        Prefilled(
            prefix,
            rows.row(i).slice(start.cached, start.cached + len(query)),
            logprobs[i],
            hidden[i],
        )
        for i, (prefix, query) in enumerate(zip(prefixes, queries, strict=True))
    ]


@dataclass(frozen=True)
class SideBySide:
    """A different prefix for each row of a batch: a transformers cache of ``cached`` tokens, left-padded, of
    which row i uses the last ``lengths[i]``, and further ``inputs`` of the forward pass."""

    cache: DynamicCache
    cached: int
    lengths: Sequence[int]
    inputs: Mapping[str, Any]


def side_by_side(prefixes: Sequence[kv_cache.KVPrefix | None]) -> SideBySide:
    """The prefixes as the rows of a batch. If one is ragged, all are read as ragged ones."""
    if example := next((prefix for prefix in prefixes if isinstance(prefix, RaggedKV)), None):
        empty = example.empty()
        rows = [empty if prefix is None else RaggedKV.of(prefix) for prefix in prefixes]
        return SideBySide(DynamicCache(), 0, [0] * len(rows), {MEMORY: RaggedBatch(rows)})
    dense = [prefix for prefix in prefixes if isinstance(prefix, kv_cache.KVCache)]
    lengths = [prefix.tokens if prefix else 0 for prefix in prefixes]
    return SideBySide(_padded(prefixes, dense, max(lengths)), max(lengths), lengths, {})


def _padded(
    prefixes: Sequence[kv_cache.KVPrefix | None], dense: Sequence[kv_cache.KVCache], longest: int
) -> DynamicCache:
    """A cache with one prefix in each row, left-padded to the ``longest``."""
    cache = DynamicCache()
    example = next((prefix for prefix in dense if prefix.tokens), None)
    if example is None:
        return cache

    def padded(tensor: Tensor | None) -> Tensor:
        tensor = example.keys[0][:, :, :0] if tensor is None else tensor
        return pad(tensor, (0, 0, longest - tensor.shape[2], 0))

    rows = [prefix if isinstance(prefix, kv_cache.KVCache) else None for prefix in prefixes]
    for layer in range(len(example.keys)):
        keys = torch.cat([padded(row.keys[layer] if row else None) for row in rows])
        values = torch.cat([padded(row.values[layer] if row else None) for row in rows])
        cache.update(keys, values, layer)
    return cache


def continue_from(
    model: PreTrainedModel,
    start: Prefilled,
    *,
    max_tokens: int,
    end: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> kv_cache.Decoded:
    """The answer to a prefilled query, as `memkit.engine.transformers.kv_cache.decode` returns it."""
    started = time.perf_counter()
    token = int(kv_cache.choose(start.logprobs[None], temperature, generator)[0])
    ttft = (time.perf_counter() - started) * 1000
    if token == end or max_tokens == 1:
        return kv_cache.Decoded([] if token == end else [token], ttft, token == end)
    (rest,) = kv_cache.decode(
        model,
        full_prefix(start),
        [[token]],
        max_tokens=max_tokens - 1,
        end=end,
        temperature=temperature,
        generator=generator,
    )
    return kv_cache.Decoded([token, *rest.ids], ttft, rest.stopped)


def full_prefix(start: Prefilled) -> kv_cache.KVPrefix:
    """The KV of a prefilled query, including its prefix."""
    return start.prefix.join(start.query) if start.prefix else start.query
