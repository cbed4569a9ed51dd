"""KV-cache pruning by kvpress (the extra ``eval``), at the budget of an artifact.

kvpress computes the scores of keys. The choice of keys is made here, as a mask, so that every press keeps
exactly ``budget`` keys of the context per layer and KV head: on average over all heads (kvzip), over the
heads of each layer (adakv), or in every head (the others).

References
    KVzip (Kim et al., 2025), Expected Attention (Devoto et al., 2025), SnapKV (Li et al., 2024), Ada-KV (Feng
    et al., 2024), ChunkKV (Liu et al., 2025).

Departures, all in favour of the presses
    - The prompt's header, which artifacts have too, is never pruned and does not count towards the budget.
    - SnapKV's window of 64 tokens is shortened to a quarter of a small budget.
    - ChunkKV ranks chunks as published, and truncates the last one to meet the budget exactly.

As in kvpress, keys stay at their positions: a question stands behind the whole length of the context.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from memkit.engine.transformers import kv_cache
from memkit.errors import ConfigError, MissingExtraError, install_line
from memkit.models.chat import text_ids
from memkit.models.loading import LoadedModel

PRESSES = ("kvzip", "expected-attention", "snapkv", "adakv")
MORE_PRESSES = ("adakv-snapkv", "chunkkv")  # measured where they are named
WINDOW = 64  # tokens, SnapKV's default
CHUNK = 20  # tokens, ChunkKV's default
SAFEGUARD = 0.2  # share of its budget that a head keeps, Ada-KV's default


def kept_keys(base: LoadedModel, press: str, context: str, budget: int) -> tuple[kv_cache.KVCache, Tensor]:
    """The KV of header and context, and which keys of the context a press keeps.

    The latter is a bool mask ``[layer, kv_head, token]`` with ``budget · layers · kv_heads`` true elements,
    or all if the context is shorter. Raises like `PressedContext`.
    """
    pressed = PressedContext(base, context)
    return pressed.kv, pressed.kept(press, budget)


class PressedContext:
    """A context whose keys are ranked by presses, each of them once for all budgets.

    ``kv``, of header and context, is computed unless it is given. Raises `MissingExtraError` when kvpress is
    absent.
    """

    def __init__(self, base: LoadedModel, context: str, kv: kv_cache.KVCache | None = None) -> None:
        try:
            import kvpress
        except ImportError as error:
            raise MissingExtraError("kvpress", install_line("eval")) from error
        self._kvpress: Any = kvpress
        self.base, self.header = base, len(base.chat.header)
        self.ids = [*base.chat.header, *text_ids(base.tokenizer, context)]
        self.kv = kv or kv_cache.prefill(base.model, self.ids)
        self._scored = dict[int, dict[str, Tensor]]()  # by SnapKV's window

    @property
    def tokens(self) -> int:
        """The number of tokens of the context."""
        return len(self.ids) - self.header

    def kept(self, press: str, budget: int) -> Tensor:
        """Which keys of the context are kept, ``[layer, kv_head, token]``; see `kept_keys`.

        Raises `ConfigError` for an unknown press.
        """
        if press not in (*PRESSES, *MORE_PRESSES):
            raise ConfigError(f"unknown press {press!r}; there are: {', '.join((*PRESSES, *MORE_PRESSES))}")
        budget = min(budget, self.tokens)
        if press == "kvzip":
            return _best(self._kvzip, budget, 3)
        by = "expected-attention" if press in ("expected-attention", "adakv") else "snapkv"
        scores = self._scores(max(min(WINDOW, budget // 4), 1))[by]
        if press.startswith("adakv"):
            return _best(safeguarded(scores, int(SAFEGUARD * budget)), budget, 2)
        return _best(chunked(scores, CHUNK) if press == "chunkkv" else scores, budget, 1)

    # -- scores: each [layer, kv_head, token] of the context ---------------------------------------
    def _scores(self, window: int) -> dict[str, Tensor]:
        """The scores of Expected Attention, and of SnapKV with a window, from one pass over the context."""
        if window in self._scored:
            return self._scored[window]
        presses = {
            "expected-attention": self._kvpress.ExpectedAttentionPress(),
            "snapkv": self._kvpress.SnapKVPress(window_size=window),
        }
        scores: dict[str, list[Tensor]] = {name: [] for name in presses}

        class Collector(self._kvpress.BasePress):  # type: ignore[misc,name-defined] # kvpress has no types
            def compress(
                self, module: Any, hidden_states: Tensor, keys: Tensor, values: Tensor, *rest: Any
            ) -> tuple[Tensor, Tensor]:
                for name, press in presses.items():
                    scores[name].append(press.score(module, hidden_states, keys, values, *rest)[0])
                return keys, values

        model, ids = self.base.model, torch.tensor([self.ids], device=self.base.model.device)
        with torch.no_grad(), Collector()(model):
            model.base_model(input_ids=ids, past_key_values=kv_cache.KVCache((), ()).cache(), use_cache=True)
        of_context = {n: torch.stack(each)[..., self.header :].float() for n, each in scores.items()}
        return self._scored.setdefault(window, of_context)

    @cached_property
    def _kvzip(self) -> Tensor:
        """The scores of KVzip, from a pass that repeats the context behind its KV (Algorithm 1)."""

        class Zip(self._kvpress.KVzipPress):  # type: ignore[misc,name-defined]
            def __post_init__(self) -> None:  # the original also warns of its cost
                self._reset_internal_parameters()

            def compress_post(self, model: Any) -> None:
                """Leave the choice of keys to `_best`."""

        base = self.base
        press = Zip()
        press.prefix_length = self.header
        press._context_ids = torch.tensor([self.ids])
        press._suffix_ids = torch.tensor([base.chat.tail])
        press._cache = self.kv.cache()
        with torch.no_grad():
            press._perform_kvzip_compression(base.model, base.tokenizer)
        return torch.as_tensor(press.score_val)[:, 0, :, self.header :].float()


def _best(scores: Tensor, budget: int, pooled: int) -> Tensor:
    """The keys with the highest of ``scores [layer, kv_head, token]``, on average ``budget`` of each head.

    The last ``pooled`` dimensions share one budget: 1 is for each head, 2 for each layer, 3 for all layers.
    """
    rows = scores.flatten(3 - pooled)
    share = budget * (rows.shape[-1] // scores.shape[-1])
    kept = torch.zeros_like(rows, dtype=torch.bool)
    kept.scatter_(-1, rows.topk(share, -1).indices, value=True)
    return kept.view(scores.shape)


def safeguarded(scores: Tensor, safe: int) -> Tensor:
    """Scores ``[layer, kv_head, token]`` by which every head keeps its ``safe`` best keys, as in Ada-KV."""
    best = scores.topk(max(safe, 1), -1).indices
    return scores.scatter(-1, best, torch.finfo(scores.dtype).max)


def chunked(scores: Tensor, size: int) -> Tensor:
    """Every token's score is its chunk's, over all heads: ``[layer, kv_head, token]`` (ChunkKV, §3)."""
    means = torch.cat(
        [part.mean((1, 2), keepdim=True).expand_as(part) for part in scores.split(size, -1)], -1
    )
    # Breaks ties within a chunk by the token's own score, so that only the last chunk is truncated.
    return means + 1e-6 * scores.mean(1, keepdim=True) / scores.abs().max().clamp(min=1e-12)
