"""Presses choose keys by head, and a model attends only to those."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ConfigError, MissingExtraError
from memkit.evals.baselines import kvpress
from memkit.evals.baselines.key_masks import keys_hidden
from memkit.evals.run import EvalConfig, evaluate
from memkit.models import rotary
from memkit.models.loading import LoadedModel, load
from memkit.testing import TEXT, build_tiny_model

CONTEXT, BUDGET = TEXT * 4, 16


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A model with two layers of two KV heads, over which a budget can be spread unevenly."""
    return load(str(build_tiny_model(tmp_path_factory.mktemp("grouped"), kv_heads=2)))


def hidden_states(base: LoadedModel, kv: kv_cache.KVCache) -> Tensor:
    """Hidden states ``[token, hidden]`` of a question behind a prefix."""
    query = base.chat.query(base.tokenizer, "Where does Mira live?", True)
    packed = kv_cache.Packed.rows([query], kv, base.model.device, left=False)
    with torch.no_grad():
        out = base.model.base_model(
            input_ids=packed.ids,
            attention_mask=packed.mask,
            position_ids=packed.positions,
            past_key_values=kv.cache(),
            use_cache=True,
        )
    hidden: Tensor = out.last_hidden_state[0]
    return hidden


def test_kvpress_is_an_extra(grouped: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "kvpress", None)
    with pytest.raises(MissingExtraError, match=r"memkit-llm\[eval\]"):
        kvpress.kept_keys(grouped, "snapkv", TEXT, 4)


@pytest.mark.parametrize("press", [*kvpress.PRESSES, *kvpress.MORE_PRESSES])
def test_presses_keep_the_budget(grouped: LoadedModel, press: str) -> None:
    pytest.importorskip("kvpress")
    kv, kept = kvpress.kept_keys(grouped, press, CONTEXT, BUDGET)
    tokens = kv.tokens - len(grouped.chat.header)
    assert kept.shape == (2, 2, tokens)
    assert int(kept.sum()) == BUDGET * 2 * 2
    by_layer, by_head = kept.sum((1, 2)).tolist(), kept.sum(2).flatten().tolist()
    if press != "kvzip":
        assert by_layer == [BUDGET * 2] * 2
    if press == "kvzip" or press.startswith("adakv"):
        assert len(set(by_head)) > 1
        assert press == "kvzip" or min(by_head) >= int(kvpress.SAFEGUARD * BUDGET)
    else:
        assert by_head == [BUDGET] * 4
    everything = kvpress.PressedContext(grouped, CONTEXT, kv).kept(press, 10_000)
    assert bool(everything.all())


def test_an_unknown_press_is_refused(grouped: LoadedModel) -> None:
    pytest.importorskip("kvpress")
    with pytest.raises(ConfigError, match="unknown press 'best'"):
        kvpress.kept_keys(grouped, "best", TEXT, 4)
    with pytest.raises(ConfigError, match="unknown baseline kvpress:best"):
        EvalConfig("generated:1", baselines=("kvpress:best",))


def test_the_choice_is_kvpress_own(grouped: LoadedModel) -> None:
    """KVzip as its library runs it, with the tokenizer of the model's folder, masks the same keys."""
    library = pytest.importorskip("kvpress")
    kv, kept = kvpress.kept_keys(grouped, "kvzip", CONTEXT, BUDGET)
    header = len(grouped.chat.header)
    ids = torch.tensor([[*grouped.chat.header, *grouped.tokenizer.encode(CONTEXT)]])
    assert ids.shape[1] == kv.tokens
    pruned = 2 * 2 * (kv.tokens - header - BUDGET)
    share = (pruned + 0.5) / (2 * 2 * kv.tokens)
    press = library.KVzipPress(compression_ratio=share, n_sink=header)  # tokens that it never prunes
    cache = kv_cache.KVCache((), ()).cache()
    with torch.no_grad(), press(grouped.model):
        grouped.model.model(input_ids=ids, past_key_values=cache, use_cache=True)
    for layer, module in enumerate(grouped.model.model.layers):
        _, heads, tokens = module.self_attn.masked_key_indices
        expected = torch.ones(2, kv.tokens, dtype=torch.bool)
        expected[heads, tokens] = False
        module.self_attn.masked_key_indices = None
        assert torch.equal(kept[layer], expected[:, header:])


def test_a_budget_is_spread_over_heads_or_layers() -> None:
    scores = torch.tensor([[[9.0, 8, 7, 6], [1, 2, 3, 0]], [[5, 4, 0, 0], [0, 0, 0, 10]]])
    best = {pooled: kvpress._best(scores, 1, pooled).sum(2).tolist() for pooled in (1, 2, 3)}
    assert best == {1: [[1, 1], [1, 1]], 2: [[2, 0], [1, 1]], 3: [[3, 0], [0, 1]]}
    safe = kvpress.safeguarded(scores, 1)
    assert kvpress._best(safe, 1, 2).sum(2).tolist() == [[1, 1], [1, 1]]
    assert bool(kvpress._best(safe, 1, 2)[0, 1, 2])


def test_hidden_keys_have_no_effect(grouped: LoadedModel) -> None:
    """Hiding keys by head is the same as large negative scores for them, and all that it changes."""
    ids = [*grouped.chat.header, *grouped.tokenizer.encode(CONTEXT)]
    kv = kv_cache.prefill(grouped.model, ids)
    kept = torch.rand(2, 2, len(ids), generator=torch.Generator().manual_seed(0)) > 0.5
    kept[..., 0] = True
    plain = hidden_states(grouped, kv)
    with keys_hidden(grouped.model, kept):
        hidden = hidden_states(grouped, kv)
        # Neither values nor keys of hidden tokens matter.
        noise = [torch.where(kept[n][None, :, :, None], 0.0, 9.0) for n in range(2)]
        changed = kv_cache.KVCache(
            tuple(k + n for k, n in zip(kv.keys, noise, strict=True)),
            tuple(v + n for v, n in zip(kv.values, noise, strict=True)),
        )
        assert torch.allclose(hidden_states(grouped, changed), hidden, atol=1e-5)
    assert not torch.allclose(hidden, plain, atol=1e-2)
    assert torch.equal(hidden_states(grouped, kv), plain)
    # In every head the same: as if the other tokens had been removed, at the positions they had.
    same = kept[:1, :1].expand_as(kept)
    few = kv_cache.KVCache(
        tuple(k[:, :, kept[0, 0]] for k in kv.keys), tuple(v[:, :, kept[0, 0]] for v in kv.values)
    )
    with keys_hidden(grouped.model, same):
        masked = hidden_states(grouped, kv)
    inv_freq = rotary.inv_freq_of(grouped.model)
    moved = few.shifted(few.tokens - kv.tokens, inv_freq)  # the question now stands that much earlier
    assert torch.allclose(hidden_states(grouped, moved), masked, atol=1e-4)


def test_answers_with_pressed_keys(grouped: LoadedModel, tmp_path: Path) -> None:
    pytest.importorskip("kvpress")
    engine = TransformersEngine(grouped)
    questions = [{"q": "Where does Mira live?", "answers": ["Keldor"]}, {"q": "Who?", "answers": ["Jalo"]}]
    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps({"id": "a", "context": CONTEXT, "questions": questions}))
    baselines = ("full", "none", "kvpress", "kvpress:chunkkv")
    config = EvalConfig(str(file), compilers=(), baselines=baselines, ratios=(1, 8))
    rows = {(row["method"], row["ratio"]): row for row in evaluate(config, engine=engine)["rows"]}
    presses = [f"kvpress:{press}" for press in (*kvpress.PRESSES, "chunkkv")]
    assert list(rows) == [("full", None), ("none", None), *((p, r) for p in presses for r in (1, 8))]
    for press in presses:
        assert rows[press, 1]["kl"] == pytest.approx(0, abs=1e-4)  # nothing is pruned
        assert rows[press, 1]["agreement"] == 1
        assert rows[press, 1]["prompt_tokens"] == rows["full", None]["prompt_tokens"]
        assert rows[press, 8]["kl"] > 1e-3
        budget = -(-engine.count_tokens(CONTEXT) // 8)
        short = rows["full", None]["prompt_tokens"] - engine.count_tokens(CONTEXT) + budget
        assert rows[press, 8]["prompt_tokens"] == short
    assert len({rows[press, 8]["kl"] for press in presses}) == len(presses)
