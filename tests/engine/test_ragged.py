"""The attention over ragged memories equals a dense reference, in every family of models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    Gemma2Config,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.probe import continue_from, prefill_side_by_side
from memkit.engine.transformers.ragged import MAX_SCORES, RaggedKV, Rows, unsupported, with_ragged_attention
from memkit.models.kv_shape import kv_shape

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # so that attention matters
}
FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SIZES),
    "qwen2": lambda: Qwen2Config(**SIZES),  # with biases of query, key and value
    "qwen3": lambda: Qwen3Config(**SIZES),  # with norms of query and key
    "mistral": lambda: MistralConfig(**SIZES, sliding_window=None),
    "gemma": lambda: GemmaConfig(**SIZES),
    "one-head": lambda: LlamaConfig(**{**SIZES, "num_key_value_heads": 1}),
}
QUERIES = ([5, 9, 11], [7], [3, 1, 4, 1, 5])


def build(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.eval().requires_grad_(False)
    return model


def memory_of(model: PreTrainedModel, seed: int = 0, most: int = 9) -> RaggedKV:
    """Random rows: a different number in every head, none in the first one."""
    generator = torch.Generator().manual_seed(seed)
    size = kv_shape(model.config).size

    def head(rows: int) -> Rows:
        keys, values = (torch.randn(rows, size, generator=generator).to(model.dtype) for _ in range(2))
        return Rows(keys, values, torch.randn(rows, generator=generator))

    heads, layers = int(model.config.num_key_value_heads), int(model.config.num_hidden_layers)
    counts = [[(3 * layer + 5 * h + seed) % most for h in range(heads)] for layer in range(layers)]
    return RaggedKV(tuple(tuple(head(n) for n in row) for row in counts), tokens=4)


def dense_logits(model: PreTrainedModel, memory: RaggedKV, query: Sequence[int]) -> Tensor:
    """Logits ``[vocabulary]`` after a query, by transformers' own attention over padded heads with masks."""
    longest = max(len(head) for heads in memory.layers for head in heads)
    n, groups = len(query), int(model.config.num_attention_heads) // len(memory.layers[0])
    model.set_attn_implementation("eager")
    head: Any = model.get_output_embeddings()

    def mask_of(layer: int) -> Tensor:
        mask = torch.full((1, len(memory.layers[0]) * groups, n, longest + n), -1e9)
        for g, head in enumerate(memory.layers[layer]):
            mask[0, g * groups : (g + 1) * groups, :, : len(head)] = head.bias
        mask[..., longest:] = torch.full((n, n), -1e9).triu(1)
        return mask.to(model.dtype)

    # One mask for all layers is what the model takes, so each layer gets its own by a hook on its arguments.
    def own_mask(module: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
        return args, {**kwargs, "attention_mask": mask_of(int(module.self_attn.layer_idx))}  # type: ignore[arg-type, union-attr]

    cache = DynamicCache()
    for layer, heads in enumerate(memory.layers):

        def padded(part: Tensor) -> Tensor:
            return torch.nn.functional.pad(part, (0, 0, 0, longest - len(part)))

        keys = torch.stack([padded(head.keys) for head in heads])[None]
        cache.update(keys, torch.stack([padded(head.values) for head in heads])[None], layer)
    layers: Any = model.base_model.layers
    hooks = [layer.register_forward_pre_hook(own_mask, with_kwargs=True) for layer in layers]
    try:
        positions = torch.arange(memory.tokens, memory.tokens + n)[None]
        out = model.base_model(
            input_ids=torch.tensor([list(query)]),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        logits: Tensor = head(out.last_hidden_state[0, -1]).float()
    finally:
        for hook in hooks:
            hook.remove()
    return logits


def ragged_logits(reader: PreTrainedModel, memory: RaggedKV, query: Sequence[int]) -> Tensor:
    batch = kv_cache.AnswerBatch.of([(list(query), [5])], memory, "cpu")
    return kv_cache.answer_logits(reader, memory, batch)[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_logits_are_those_of_a_dense_reference(family: str, dtype: torch.dtype) -> None:
    model = build(FAMILIES[family](), dtype)
    reader, memory = with_ragged_attention(model), memory_of(model)
    for query in QUERIES:
        ours, reference = ragged_logits(reader, memory, query), dense_logits(model, memory, query)
        # bfloat16 rounds at other places: compared with the spread of the logits.
        limit = 1e-3 if dtype == torch.float32 else 0.05 * float(reference.std()) + 0.05
        assert (ours - reference).abs().max() < limit
        others = ragged_logits(reader, memory_of(model, seed=1), query)
        assert (others - reference).abs().max() > 5 * limit  # the memory matters


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_rows_are_the_dense_cache(family: str) -> None:
    model = build(FAMILIES[family]())
    reader = with_ragged_attention(model)
    dense = kv_cache.prefill(model, [3, 8, 2, 6, 1])
    header, rest = dense.slice(0, 2), dense.slice(2)
    ragged = RaggedKV.of(rest).after(header)
    assert ragged.tokens == dense.tokens
    pairs = [(list(query), [5, 6]) for query in QUERIES]
    batch = kv_cache.AnswerBatch.of(pairs, ragged, "cpu")
    ours = kv_cache.answer_logits(reader, ragged, batch)
    theirs = kv_cache.answer_logits(model, dense, kv_cache.AnswerBatch.of(pairs, dense, "cpu"))
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert [d.ids for d in kv_cache.decode(reader, ragged, QUERIES, max_tokens=6, end=0)] == [
        d.ids for d in kv_cache.decode(model, dense, QUERIES, max_tokens=6, end=0)
    ]


def test_different_memories_in_one_batch_are_read_like_alone() -> None:
    model = build(FAMILIES["qwen2"]())
    reader = with_ragged_attention(model)
    prefixes = [memory_of(model), None, kv_cache.prefill(model, [3, 8, 2]), memory_of(model, 2, 30)]
    queries = [[5, 9, 11], [7], [3, 1, 4], [2, 2, 2, 2]]
    together = prefill_side_by_side(reader, prefixes, queries)
    for prefix, query, row in zip(prefixes, queries, together, strict=True):
        (alone,) = prefill_side_by_side(reader, [prefix], [query])
        assert torch.allclose(row.logprobs, alone.logprobs, atol=1e-4)
        (decoded,) = kv_cache.decode(reader, prefix, [query], max_tokens=5, end=0)
        assert continue_from(reader, row, max_tokens=5, end=0).ids == decoded.ids


def test_a_long_query_is_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(FAMILIES["llama"]())
    reader, memory, query = with_ragged_attention(model), memory_of(model), list(range(1, 40))
    whole = ragged_logits(reader, memory, query)
    monkeypatch.setattr("memkit.engine.transformers.ragged.MAX_SCORES", 7 * 2 * 45)
    assert MAX_SCORES > 7 * 2 * 45
    assert torch.allclose(ragged_logits(reader, memory, query), whole, atol=1e-5)


def test_the_original_model_is_not_changed() -> None:
    model = build(FAMILIES["llama"]())
    before = model.config._attn_implementation
    reader = with_ragged_attention(model)
    assert model.config._attn_implementation == before != reader.config._attn_implementation
    assert all(a is b for a, b in zip(model.parameters(), reader.parameters(), strict=True))
    plain = [kv_cache.prefill(m, [4, 5, 6]).keys[-1] for m in (model, reader)]
    assert torch.equal(*plain)  # without a memory it is transformers' own attention


def test_models_that_it_would_be_wrong_for_are_refused() -> None:
    capped = build(Gemma2Config(**SIZES, sliding_window=16))
    with pytest.raises(ValueError, match="sliding"):
        with_ragged_attention(capped)
    everywhere = build(MistralConfig(**SIZES, sliding_window=16))
    assert "sliding" in str(unsupported(everywhere))
    assert unsupported(build(FAMILIES["mistral"]())) is None
