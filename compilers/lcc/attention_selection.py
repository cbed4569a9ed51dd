"""Select the context's keys and values that questions about it attend to most.

References
    Li et al., "SnapKV" (2024): scores by the attention of the last tokens, pooled over neighbours. Here the
    attention is that of the training questions and their answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from memkit.compilers.distillation.flops import FlopMeter
from memkit.compilers.distillation.teacher import Example, Teacher
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.lora import shared_copy
from memkit.errors import CompileError
from memkit.models import rotary

POOL = 5  # width of max-pooling over neighbouring tokens: answers are phrases
BATCH = 4  # examples in one batch; the attention weights of all layers are in memory at once


def most_attended(
    teacher: Teacher, examples: Sequence[Example], count: int, meter: FlopMeter, batch: int = BATCH
) -> kv_cache.KVCache:
    """The KV of the ``count`` tokens of the teacher's context that ``examples`` attend to most.

    Tokens are selected for each layer and KV head; they keep their order, at consecutive positions after the
    teacher's prefix. Raises `CompileError` without examples, or for a model without rotary positions.
    """
    if not examples:
        raise CompileError("kv_init='attention' found no question about the text: use kv_init='buffer'")
    if teacher.base.fixed_keys:
        raise CompileError(f"nothing can be compiled for {teacher.base.name}: {teacher.base.fixed_keys}")
    inv_freq = rotary.inv_freq_of(teacher.base.model)
    start = teacher.before.tokens if teacher.before else 0
    keys, values = list[Tensor](), list[Tensor]()
    scores = attention(teacher, examples, meter, batch)
    for score, k, v in zip(scores, teacher.prefix.keys, teacher.prefix.values, strict=True):
        pooled = functional.max_pool1d(score[:, None], POOL, 1, POOL // 2)[:, 0]
        ranked = pooled + 1e-4 * score  # breaks ties within a neighbourhood
        chosen = ranked.topk(min(count, score.shape[1]), -1).indices.sort(-1).values[None]
        at = chosen[..., None].expand(-1, -1, -1, k.shape[-1])
        offsets = torch.arange(chosen.shape[-1], device=chosen.device) - chosen
        keys.append(rotary.rotate(k[:, :, start:].gather(2, at), offsets, inv_freq))
        values.append(v[:, :, start:].gather(2, at))
    return kv_cache.KVCache(tuple(keys), tuple(values))


@torch.no_grad()
def attention(teacher: Teacher, examples: Sequence[Example], meter: FlopMeter, batch: int) -> list[Tensor]:
    """The total attention of the examples' tokens to each context token: for each layer, ``[kv_head,
    token]``."""
    reader: Any = shared_copy(teacher.base.model)
    reader.set_attn_implementation("eager")  # the only one that returns attention weights
    prefix = teacher.prefix
    start = teacher.before.tokens if teacher.before else 0
    totals = [torch.zeros(k.shape[1], prefix.tokens - start, device=k.device) for k in prefix.keys]
    for group in kv_cache.chunked(examples, batch):
        packed = kv_cache.Packed.rows(
            [[*e.query, *e.answer] for e in group], prefix, reader.device, left=False
        )
        meter.forward(packed.ids.numel(), prefix.tokens)
        weights = reader.base_model(
            input_ids=packed.ids,
            attention_mask=packed.mask,
            position_ids=packed.positions,
            past_key_values=prefix.cache(len(group)),
            use_cache=True,
            output_attentions=True,
        ).attentions
        real = packed.mask[:, None, prefix.tokens :, None]  # leaves out padding
        for total, weight in zip(totals, weights, strict=True):
            by_head = (weight[..., start : prefix.tokens].float() * real).sum((0, 2))  # [head, token]
            total += by_head.unflatten(0, (total.shape[0], -1)).sum(1)
    return totals
