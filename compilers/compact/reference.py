"""Reference queries: what later tokens ask of each attention head, without knowing the questions.

The text is read again behind itself, as the answer to a request to repeat it (KVzip, Kim et al., §3.2). The
queries of those tokens stand for those of any question: they attend to whatever a head keeps the context for.
A long text is repeated in chunks, each behind the whole context, so that memory grows with the chunk and
positions stay within the model's window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel

from memkit.compilers.compact.matching import Attention
from memkit.compilers.compact.passes import Pass
from memkit.compilers.compact.reading import Reading
from memkit.engine.transformers.ragged import MAX_SCORES, OBSERVER, RaggedBatch
from memkit.errors import CompileError

_TINY = 1e-30


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

    ``squares`` ``[kv_head, key]`` is the sum, over all reference queries, of the square of each context key's
    share of the attention times its ``weight`` ``[kv_head, query head, key]``.
    """

    weight: Tensor
    squares: Tensor
    count: int = 0  # queries
    recorded: list[Reference] = field(default_factory=list)

    @classmethod
    def of(cls, weight: Tensor) -> LayerReferences:
        """Nothing seen yet."""
        return cls(weight, torch.zeros_like(weight[:, 0]))

    def importance(self, sharpen: float = 1.0) -> Tensor:
        """How much a key matters ``[kv_head, key]``, comparable over heads and layers.

        With ``sharpen`` above one, the keys that stand out in their head gain, and with them the heads that
        need few of their keys for much of their attention.
        """
        plain = (self.squares / max(self.count, 1)).sqrt()
        return plain.pow(sharpen) * plain.mean(-1, keepdim=True).clamp(min=_TINY).pow(1 - sharpen)

    def by_span(self) -> list[Reference]:
        """The recorded queries, those of the same keys together, in the order of the keys."""
        spans = dict[tuple[int, int], list[Reference]]()
        for each in self.recorded:
            spans.setdefault((each.span.start, each.span.stop), []).append(each)
        return [
            Reference(
                slice(*span),
                torch.cat([part.query for part in parts], 1),
                torch.cat([part.rest for part in parts], 1),
                torch.cat([part.read for part in parts], 1),
            )
            for span, parts in sorted(spans.items())
        ]


class AttentionRecorder:
    """Observes the reference pass of one chunk; see `memkit.engine.transformers.ragged.AttentionObserver`.

    The pass continues a cache of ``start + context`` tokens. ``span`` is the chunk's place in the context and
    ``sampled`` the tokens of the pass whose queries are recorded.
    """

    def __init__(
        self, layers: Sequence[LayerReferences], reading: Reading, span: slice, sampled: Tensor
    ) -> None:
        self._layers, self._start, self._context = layers, reading.start, reading.context
        self._span, self._sampled = span, sampled
        self.seen = set[int]()  # layers

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        memory: RaggedBatch | None,
        scaling: float,
    ) -> Tensor:
        groups, tokens, size = key.shape[1], query.shape[2], query.shape[3]
        seen = self._layers[layer]
        self.seen.add(layer)
        scaled = query[0].float().view(groups, -1, tokens, size) * scaling
        heads = [
            self._head(seen, g, scaled[g], _Seen.of(key[0, g], value[0, g], memory, layer, g))
            for g in range(groups)
        ]
        seen.count += scaled.shape[1] * tokens
        rest, read, output = (torch.stack(part) for part in zip(*heads, strict=True))
        chosen = scaled[:, :, self._sampled].flatten(1, 2)
        seen.recorded.append(Reference(self._span, chosen, rest, read))
        return output.view(query.shape)

    def _head(
        self, seen: LayerReferences, head: int, query: Tensor, keys: _Seen
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Add up the importance of one KV head; ``rest`` and ``read`` of `Reference` for it, and its output.

        ``query`` and the output are ``[query head, token, head_dim]``.
        """
        first = keys.remembered + self._start  # of the context, among all keys
        context = slice(first, first + self._context)
        span = slice(first + self._span.start, first + self._span.stop)
        tokens = query.shape[1]
        block = max(1, MAX_SCORES // (query.shape[0] * len(keys.keys)))
        rests, reads, outputs = list[Tensor](), list[Tensor](), list[Tensor]()
        for at in range(0, tokens, block):
            several = torch.arange(at, min(at + block, tokens), device=query.device)
            scores = query[:, several] @ keys.keys.T + keys.bias
            own = torch.arange(len(keys.keys) - context.stop, device=query.device)
            scores[..., context.stop :].masked_fill_(own > several[:, None], -torch.inf)
            # All sums below share these exponentials, whose computation takes most of the time.
            largest = scores.amax(-1, keepdim=True)
            mass = scores.sub_(largest).exp_()
            total = mass.sum(-1)
            squares = torch.einsum("htk,ht->hk", mass[..., context].square(), total.pow(-2))
            seen.squares[head] += (squares * seen.weight[head].square()).sum(0)
            before, after = mass[..., : span.start], mass[..., span.stop :]
            elsewhere = before @ keys.values[: span.start] + after @ keys.values[span.stop :]
            outputs.append((elsewhere + mass[..., span] @ keys.values[span]) / total[..., None])
            taken = torch.isin(several, self._sampled)
            rest = (before[:, taken].sum(-1) + after[:, taken].sum(-1)).clamp(min=_TINY)
            rests.append(rest.log() + largest[:, taken, 0])
            reads.append(elsewhere[:, taken] / rest[..., None])
        return torch.cat(rests, 1).flatten(), torch.cat(reads, 1).flatten(0, 1), torch.cat(outputs, 1)


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
    passes: Sequence[Pass],
    layers: Sequence[LayerReferences],
    limit: int,
    seed: int,
) -> Iterator[None]:
    """Run the reference passes behind a text and add what is seen to ``layers``; yields after each pass.

    ``limit`` tokens of each pass are sampled for the refit. ``model`` is one of `with_ragged_attention`.
    Raises `CompileError` for a model whose attention is not observed.
    """
    generator = torch.Generator().manual_seed(seed)
    for each in passes:
        sampled = torch.randperm(len(each.ids), generator=generator)[:limit].sort().values.to(model.device)
        recorder = AttentionRecorder(layers, reading, each.span, sampled)
        model.base_model(**reading.inputs(each.ids, model.device), **{OBSERVER: recorder})
        if len(recorder.seen) != len(layers):
            raise CompileError(
                f"the attention of {type(model).__name__} cannot be observed: {len(recorder.seen)} of "
                f"{len(layers)} layers report it. The document stays answerable from its text; use another "
                "compiler"
            )
        yield
