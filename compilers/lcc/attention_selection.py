"""A memory made of the context's own keys and values: those that questions about it attend to most.

References
    Li et al., "SnapKV" (2024): scores by the attention of the last tokens, pooled over neighbours. Here the
    attention is that of the training questions and answers, which no user has asked yet.
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

POOL = 5  # neighbouring tokens that share a score: answers are phrases
BATCH = 4  # examples read at once; attention weights of all layers are kept meanwhile


def most_attended(
    teacher: Teacher, examples: Sequence[Example], count: int, meter: FlopMeter, batch: int = BATCH
) -> kv_cache.KVCache:
    """The ``count`` tokens of the teacher's context that ``examples`` attend to most, by layer and head.

    They keep their order and stand at consecutive positions behind what is in front of the context.
    Raises `CompileError` where there are no examples, or no rotary positions to move keys by.
    """
    if not examples:
        raise CompileError("kv_init='attention' found no question about the text: use kv_init='buffer'")
    try:
        inv_freq = kv_cache.inv_freq_of(teacher.base.model)
    except ValueError as error:
        raise CompileError(f"nothing can be compiled for {teacher.base.name}: {error}") from error
    start = teacher.before.tokens if teacher.before else 0
    keys, values = list[Tensor](), list[Tensor]()
    scores = attention(teacher, examples, meter, batch)
    for score, k, v in zip(scores, teacher.prefix.keys, teacher.prefix.values, strict=True):
        pooled = functional.max_pool1d(score[:, None], POOL, 1, POOL // 2)[:, 0]
        ranked = pooled + 1e-4 * score  # within a neighbourhood the better token comes first
        chosen = ranked.topk(min(count, score.shape[1]), -1).indices.sort(-1).values[None]
        at = chosen[..., None].expand(-1, -1, -1, k.shape[-1])
        offsets = torch.arange(chosen.shape[-1], device=chosen.device) - chosen
        keys.append(kv_cache.rotate(k[:, :, start:].gather(2, at), offsets, inv_freq))
        values.append(v[:, :, start:].gather(2, at))
    return kv_cache.KVCache(tuple(keys), tuple(values))


@torch.no_grad()
def attention(teacher: Teacher, examples: Sequence[Example], meter: FlopMeter, batch: int) -> list[Tensor]:
    """How much the examples' tokens attend to each token of the context, ``[kv_head, token]`` by layer."""
    reader: Any = shared_copy(teacher.base.model)
    reader.set_attn_implementation("eager")  # the only one that gives its weights away
    prefix = teacher.prefix
    start = teacher.before.tokens if teacher.before else 0
    totals = [torch.zeros(k.shape[1], prefix.tokens - start, device=k.device) for k in prefix.keys]
    for group in kv_cache.chunked(examples, batch):
        packed = kv_cache.Packed.rows(
            [[*e.query, *e.answer] for e in group], prefix.tokens, reader.device, left=False
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
        real = packed.mask[:, None, prefix.tokens :, None]  # padding attends, too, and counts for nothing
        for total, weight in zip(totals, weights, strict=True):
            by_head = (weight[..., start : prefix.tokens].float() * real).sum((0, 2))  # [head, token]
            total += by_head.unflatten(0, (total.shape[0], -1)).sum(1)
    return totals
