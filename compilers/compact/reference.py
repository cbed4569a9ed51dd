"""Reference queries: what a question's tokens look like to each attention head, without any question.

The model is asked to repeat the text, with the text itself as its answer (KVzip, Kim et al., §3): one more
pass over the text, whose tokens attend to whatever a head keeps the context for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.ragged import OBSERVER


@dataclass(frozen=True)
class Queries:
    """The reference queries of the heads of one layer that share keys, and what they attend to elsewhere.

    ``query`` is ``[kv_head, query, head_dim]``, rotated and scaled, so that a score is its product with a
    key. ``rest`` ``[kv_head, query]`` is the log of the attention mass outside the context (header and the
    query's own text) and ``read`` ``[kv_head, query, head_dim]`` the output of that part alone.
    """

    query: Tensor
    rest: Tensor
    read: Tensor


class QueryRecorder:
    """Records at most ``limit`` tokens' queries of a forward pass in every layer.

    The pass continues a cache of ``header + context`` tokens. See
    `memkit.engine.transformers.ragged.AttentionObserver`.
    """

    def __init__(self, header: int, context: int, tokens: Tensor) -> None:
        self._header, self._prefix, self._tokens = header, header + context, tokens
        self.layers = dict[int, Queries]()

    def see(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float
    ) -> None:
        chosen, groups = self._tokens, key.shape[1]
        size = query.shape[-1]
        q = query[0, :, chosen].float() * scaling  # [head, chosen, head_dim]
        heads = q.shape[0] // groups
        q = q.reshape(groups, heads, len(chosen), size)
        at = [*range(self._header), *range(self._prefix, key.shape[2])]
        k, v = key[0][:, at].float(), value[0][:, at].float()  # [kv_head, other token, head_dim]
        scores = torch.einsum("ghqd,gtd->ghqt", q, k)
        own = torch.arange(len(at), device=q.device)[None] <= chosen[:, None] + self._header
        scores = scores.masked_fill(~own, -torch.inf)
        rest = scores.logsumexp(-1)
        read = torch.einsum("ghqt,gtd->ghqd", (scores - rest[..., None]).exp(), v)
        self.layers[layer] = Queries(
            q.reshape(groups, -1, size), rest.reshape(groups, -1), read.reshape(groups, -1, size)
        )


@torch.no_grad()
def record(
    model: PreTrainedModel,
    prefix: kv_cache.KVCache,
    header: int,
    ids: Sequence[int],
    limit: int,
    seed: int = 0,
) -> list[Queries]:
    """The queries of ``ids``, read after a prefix of header and context, in every layer."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.arange(len(ids))
    if len(ids) > limit:
        tokens = torch.randperm(len(ids), generator=generator)[:limit].sort().values
    recorder = QueryRecorder(header, prefix.tokens - header, tokens.to(model.device))
    start = prefix.tokens
    positions = torch.arange(start, start + len(ids), device=model.device)[None]
    model.base_model(
        input_ids=torch.tensor([list(ids)], device=model.device),
        position_ids=positions,
        past_key_values=prefix.cache(),
        use_cache=True,
        **{OBSERVER: recorder},
    )
    return [recorder.layers[layer] for layer in sorted(recorder.layers)]
