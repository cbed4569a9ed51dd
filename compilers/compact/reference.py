"""Reference queries: what later tokens ask of each attention head, without knowing the questions.

The model repeats the text (KVzip, Kim et al., §3.2): "Please repeat the text.", with the text itself as the
answer, is read once behind it. The queries of those tokens stand for those of any question: they attend to
whatever a head keeps the context for. A long text is repeated in chunks, each behind the whole context, so
that memory grows with the chunk and positions stay within the model's window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from memkit.compilers.compact.matching import Attention
from memkit.compilers.compact.reading import Reading
from memkit.engine.transformers.ragged import MAX_SCORES, OBSERVER, RaggedBatch
from memkit.errors import CompileError


@dataclass(frozen=True)
class Reference:
    """Reference queries of one layer for the keys ``span`` of the context.

    ``query`` ``[kv_head, query, head_dim]`` holds all query heads of a KV head, rotated and scaled: a score
    is the product with a key. ``rest`` ``[kv_head, query]`` is the log of the attention mass outside the
    span and ``read`` ``[kv_head, query, head_dim]`` what is read there.
    """

    span: slice
    query: Tensor
    rest: Tensor
    read: Tensor

    def attention(self, head: int, keys: Tensor) -> Attention:
        """How the queries attend to the ``keys`` ``[key, head_dim]`` of the span in one KV head."""
        return Attention(self.query[head] @ keys.float().T, self.rest[head], self.read[head])


@dataclass
class LayerReferences:
    """What one layer's attention was seen to do.

    ``squares`` and ``largest`` ``[kv_head, key]`` are, over all reference queries, the sum of squares and the
    maximum of each context key's share of the attention.
    """

    squares: Tensor
    largest: Tensor
    count: int = 0  # queries
    chunks: list[Reference] = field(default_factory=list)

    def importance(self) -> Tensor:
        """How much a key matters ``[kv_head, key]``, comparable over heads and layers."""
        return (self.squares / max(self.count, 1)).sqrt()


class AttentionRecorder:
    """Observes the reference pass of one chunk; see `memkit.engine.transformers.ragged.AttentionObserver`.

    The pass continues a cache of ``start + context`` tokens. ``span`` is the chunk's place in the context and
    ``sampled`` the tokens of the pass whose queries are recorded.
    """

    def __init__(
        self, layers: dict[int, LayerReferences], start: int, context: int, span: slice, sampled: Tensor
    ) -> None:
        self._layers, self._start, self._context = layers, start, context
        self._span, self._sampled = span, sampled

    def see(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        memory: RaggedBatch | None,
        scaling: float,
    ) -> None:
        groups, tokens, size = key.shape[1], query.shape[2], query.shape[3]
        seen = self._layers.get(layer)
        if seen is None:
            blank = torch.zeros(groups, self._context, device=key.device)
            seen = self._layers[layer] = LayerReferences(blank, blank.clone())
        scaled = query[0].float().view(groups, -1, tokens, size) * scaling
        heads = [
            self._head(seen, g, scaled[g], _Seen.of(key[0, g], value[0, g], memory, layer, g))
            for g in range(groups)
        ]
        seen.count += scaled.shape[1] * tokens
        query_rows, rest, read = (torch.stack(part) for part in zip(*heads, strict=True))
        seen.chunks.append(Reference(self._span, query_rows, rest, read))

    def _head(
        self, seen: LayerReferences, head: int, query: Tensor, keys: _Seen
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Add up the importance of one KV head; the rows of `Reference` for it.

        ``query`` is ``[query head, token, head_dim]``.
        """
        first = keys.remembered + self._start  # of the context, among all keys
        span = slice(first + self._span.start, first + self._span.stop)
        tokens = query.shape[1]
        block = max(1, MAX_SCORES // (query.shape[0] * len(keys.keys)))
        rests, reads = list[Tensor](), list[Tensor]()
        for at in range(0, tokens, block):
            several = torch.arange(at, min(at + block, tokens), device=query.device)
            scores = query[:, several] @ keys.keys.T + keys.bias
            last = first + self._context + several  # the key of each token itself
            hidden = torch.arange(len(keys.keys), device=query.device)[None] > last[:, None]
            scores = scores.masked_fill(hidden, -torch.inf)
            weights = scores.softmax(-1)[..., first : first + self._context]
            seen.squares[head] += weights.square().sum((0, 1))
            seen.largest[head] = torch.maximum(seen.largest[head], weights.amax((0, 1)))
            elsewhere = scores[:, torch.isin(several, self._sampled)]
            elsewhere[..., span] = -torch.inf
            rest = elsewhere.logsumexp(-1)
            rests.append(rest)
            reads.append((elsewhere - rest[..., None]).exp() @ keys.values)
        chosen = query[:, self._sampled]
        return chosen.flatten(0, 1), torch.cat(rests, 1).flatten(), torch.cat(reads, 1).flatten(0, 1)


@dataclass(frozen=True)
class _Seen:
    """All keys ``[key, head_dim]`` that a query of one KV head sees, those of a memory first, with values and
    biases ``[key]``; ``remembered`` of them are the memory's."""

    keys: Tensor
    values: Tensor
    bias: Tensor
    remembered: int

    @classmethod
    def of(cls, key: Tensor, value: Tensor, memory: RaggedBatch | None, layer: int, head: int) -> _Seen:
        keys, values, bias = key.float(), value.float(), key.new_zeros(len(key), dtype=torch.float32)
        if memory is None:
            return cls(keys, values, bias, 0)
        before = [part[0].float() for part in memory.rows(layer, head)]
        keys, values, bias = (torch.cat(pair) for pair in zip(before, (keys, values, bias), strict=True))
        return cls(keys, values, bias, len(before[0]))


@torch.no_grad()
def observe(
    model: PreTrainedModel,
    reading: Reading,
    passes: Sequence[tuple[slice, Sequence[int]]],
    limit: int,
    seed: int,
) -> Iterator[list[LayerReferences]]:
    """Run the reference passes ``(span of the context, token ids)`` behind a text.

    Yields the references so far after each pass. ``limit`` tokens of each are sampled for the refit.
    ``model`` is one of `with_ragged_attention`. Raises `CompileError` for a model whose attention is not
    observed.
    """
    layers, wanted = dict[int, LayerReferences](), int(model.config.num_hidden_layers)
    generator = torch.Generator().manual_seed(seed)
    for span, ids in passes:
        sampled = torch.randperm(len(ids), generator=generator)[:limit].sort().values.to(model.device)
        recorder = AttentionRecorder(layers, reading.start, reading.context, span, sampled)
        model.base_model(**reading.inputs(ids, model.device), **{OBSERVER: recorder})
        if len(layers) != wanted:
            raise CompileError(
                f"the attention of {type(model).__name__} cannot be observed: {len(layers)} of {wanted} "
                "layers report it. The document stays answerable from its text; use another compiler"
            )
        yield [layers[layer] for layer in sorted(layers)]
