"""Batches whose rows hold several sequences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.kv_cache import AnswerBatch, KVPrefix, answer_logits
from memkit.engine.transformers.packing import _placed, answer_batch, packed_answers
from memkit.engine.transformers.ragged import RaggedKV, with_ragged_attention

PAIRS = [([3, 4, 5], [6]), ([7], [8, 9, 10, 11]), ([2, 3], [4, 5]), ([9, 8, 7, 6, 5], [4]), ([1], [2])]
SIZES: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    torch.manual_seed(0)
    made: PreTrainedModel = LlamaForCausalLM(LlamaConfig(**SIZES))
    made.eval()
    return made


def ragged(model: PreTrainedModel, dense: kv_cache.KVCache) -> tuple[PreTrainedModel, KVPrefix]:
    return with_ragged_attention(model), RaggedKV.of(dense)


def as_it_is(model: PreTrainedModel, dense: kv_cache.KVCache) -> tuple[PreTrainedModel, KVPrefix]:
    return model, dense


@pytest.mark.parametrize("read", [as_it_is, ragged])
@pytest.mark.parametrize("row_tokens", [1, 6, 9, 512])
def test_logits_are_those_of_one_sequence_a_row(
    model: PreTrainedModel,
    read: Callable[[PreTrainedModel, kv_cache.KVCache], tuple[PreTrainedModel, KVPrefix]],
    row_tokens: int,
) -> None:
    reader, prefix = read(model, kv_cache.prefill(model, [1, 2, 3, 4, 5, 6]))
    with torch.no_grad():
        apart = answer_logits(reader, prefix, AnswerBatch.of(PAIRS, prefix, "cpu"))
        batch = packed_answers(PAIRS, prefix, "cpu", row_tokens)
        together = answer_logits(reader, prefix, batch)
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    assert batch.target.tolist() == [token for _, answer in PAIRS for token in answer]
    assert len(batch.packed.ids) == {1: 4, 6: 4, 9: 3, 512: 1}[row_tokens]


def test_without_a_prefix(model: PreTrainedModel) -> None:
    with torch.no_grad():
        apart = answer_logits(model, None, AnswerBatch.of(PAIRS, None, "cpu"))
        together = answer_logits(model, None, packed_answers(PAIRS, None, "cpu"))
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)


def test_gradients_of_the_prefix_are_the_same(model: PreTrainedModel) -> None:
    dense = kv_cache.prefill(model, [1, 2, 3])
    gradients = []
    for batch_of in (packed_answers, AnswerBatch.of):
        keys = tuple(k.clone().requires_grad_() for k in dense.keys)
        prefix = kv_cache.KVCache(keys, dense.values)
        answer_logits(model, prefix, batch_of(PAIRS, prefix, "cpu")).square().mean().backward()
        gradients.append([k.grad for k in keys])
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_where_the_mask_is_not_understood_each_row_has_one_sequence(model: PreTrainedModel) -> None:
    assert len(answer_batch(model, PAIRS, None).packed.ids) == 1
    sliding = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4))
    eager = LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation="eager"))
    for other in (sliding, eager):
        assert len(answer_batch(other, PAIRS, None).packed.ids) == len(PAIRS)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 60))
def test_no_two_sequences_are_in_the_same_place(lengths: list[int], row_tokens: int) -> None:
    places, (batch, width) = _placed(lengths, row_tokens)
    taken = {(row, first + i) for (row, first), n in zip(places, lengths, strict=True) for i in range(n)}
    assert len(taken) == sum(lengths)
    assert all(row < batch and column < width for row, column in taken)
    assert width <= max(row_tokens, *lengths) + max(lengths)
