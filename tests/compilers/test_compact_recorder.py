"""The recorder of the reference passes attends like the model, and records what it attended to."""

from __future__ import annotations

import pytest
import torch

from memkit.compilers.compact import reference
from memkit.compilers.compact.reading import Reading
from memkit.compilers.compact.reference import AttentionRecorder, LayerReferences
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.ragged import OBSERVER, RaggedKV, with_ragged_attention
from memkit.models.loading import LoadedModel, load
from memkit.testing import build_tiny_model

HEADER, TEXT, AGAIN = [3, 4, 5], list(range(10, 34)), list(range(40, 58))
SPAN = slice(6, 20)  # of the text


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load(str(build_tiny_model(tmp_path_factory.mktemp("grouped"), kv_heads=2)))


def reading_of(base: LoadedModel, remembered: bool) -> Reading:
    header = kv_cache.prefill(base.model, HEADER)
    before = Reading(None, 0, RaggedKV.of(header)) if remembered else Reading(header, len(HEADER))
    *_, read = before.extended(with_ragged_attention(base.model), TEXT, 10)
    return read


@pytest.mark.parametrize("remembered", [False, True])
@pytest.mark.parametrize("scores", [1 << 25, 300])  # at once; the fewer, the more blocks
def test_the_pass_reads_what_it_reads_unobserved(
    grouped: LoadedModel, monkeypatch: pytest.MonkeyPatch, remembered: bool, scores: int
) -> None:
    monkeypatch.setattr(reference, "MAX_SCORES", scores)
    model, reading = with_ragged_attention(grouped.model), reading_of(grouped, remembered)
    config = grouped.model.config
    groups = config.num_key_value_heads
    weight = torch.ones(groups, config.num_attention_heads // groups, len(TEXT))
    layers = [LayerReferences.of(weight) for _ in range(config.num_hidden_layers)]
    sampled = torch.tensor([0, 3, 4, 11, 17])
    recorder = AttentionRecorder(layers, reading, SPAN, sampled)
    with torch.no_grad():
        plain = model.base_model(**reading.inputs(AGAIN, model.device)).last_hidden_state
        seen = model.base_model(**reading.inputs(AGAIN, model.device), **{OBSERVER: recorder})
    torch.testing.assert_close(seen.last_hidden_state, plain, rtol=1e-4, atol=1e-5)
    for layer in layers:
        (recorded,) = layer.recorded
        assert recorded.query.shape[1] == len(sampled) * weight.shape[1]
        assert layer.count == len(AGAIN) * weight.shape[1]
        assert recorded.read.isfinite().all()
