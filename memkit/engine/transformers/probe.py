"""Probe questions: prefill a question after several candidate memories in one pass, to answer it later."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache, PreTrainedModel

from memkit.engine.transformers import kv_cache


@dataclass(frozen=True)
class Prefilled:
    """A query that was prefilled after ``prefix``: its own keys and values, to continue from.

    ``logprobs [vocabulary]`` are the first answer token's; ``hidden [hidden]`` is the state that predicts it.
    """

    prefix: kv_cache.KVCache | None
    query: kv_cache.KVCache
    logprobs: Tensor
    hidden: Tensor


@torch.no_grad()
def prefill_side_by_side(
    model: PreTrainedModel, prefixes: Sequence[kv_cache.KVCache | None], queries: Sequence[Sequence[int]]
) -> list[Prefilled]:
    """Prefill each query after its own prefix, all in one batch padded to the longest."""
    lengths = [prefix.tokens if prefix else 0 for prefix in prefixes]
    longest, width = max(lengths), max(len(query) for query in queries)
    ids = torch.zeros(len(queries), width, dtype=torch.long)
    mask = torch.zeros(len(queries), longest + width, dtype=torch.long)
    for i, query in enumerate(queries):
        ids[i, : len(query)] = torch.tensor(list(query))
        mask[i, longest - lengths[i] : longest + len(query)] = 1  # left-padded prefix, right-padded query
    positions = torch.tensor(lengths)[:, None] + torch.arange(width)[None]
    cache, device = _side_by_side(prefixes, longest), model.device
    out = model.base_model(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        position_ids=positions.to(device),
        past_key_values=cache,
        use_cache=True,
    )
    last = torch.tensor([len(query) - 1 for query in queries], device=device)
    hidden = out.last_hidden_state[torch.arange(len(queries), device=device), last]
    logprobs = kv_cache.output_layer(model)(hidden).float().log_softmax(-1)
    rows = kv_cache.KVCache.of(cache)
    return [
        Prefilled(prefix, rows.row(i).slice(longest, longest + len(query)), logprobs[i], hidden[i])
        for i, (prefix, query) in enumerate(zip(prefixes, queries, strict=True))
    ]


def _side_by_side(prefixes: Sequence[kv_cache.KVCache | None], longest: int) -> DynamicCache:
    """A cache with one prefix in each row, left-padded to the ``longest``."""
    cache = DynamicCache()
    example = next((prefix for prefix in prefixes if prefix and prefix.tokens), None)
    if example is None:
        return cache

    def padded(tensor: Tensor | None) -> Tensor:
        tensor = example.keys[0][:, :, :0] if tensor is None else tensor
        return pad(tensor, (0, 0, longest - tensor.shape[2], 0))

    for layer in range(len(example.keys)):
        keys = torch.cat([padded(p.keys[layer] if p else None) for p in prefixes])
        values = torch.cat([padded(p.values[layer] if p else None) for p in prefixes])
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


def full_prefix(start: Prefilled) -> kv_cache.KVCache:
    """The KV of a prefilled query, including its prefix."""
    return start.prefix.join(start.query) if start.prefix else start.query
