"""Prefixes: the model that reads a question, and the KV in front of it, for every attached artifact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from memkit.artifact.format import Artifact
from memkit.artifact.kv import read_kv
from memkit.artifact.ragged import KIND as RAGGED
from memkit.artifact.ragged import read_ragged
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.decoder_checkpoint import load_decoder
from memkit.engine.transformers.lora import load_adapter
from memkit.engine.transformers.ragged import RaggedKV, Rows, with_ragged_attention
from memkit.errors import ArtifactError, EngineError
from memkit.models.kv_shape import kv_shape
from memkit.models.loading import LoadedModel


@dataclass(frozen=True)
class Prefix:
    """The model that reads a question, and the KV of everything in front of it."""

    model: PreTrainedModel
    prefix: kv_cache.KVPrefix | None  # None: nothing is in front of the question
    follows: bool  # the question follows a context, or an artifact in its place, and a separator
    owner: object = field(default=None, repr=False)  # kept alive as long as this prefix

    @property
    def tokens(self) -> int:
        """The number of positions in front of the question."""
        return self.prefix.tokens if self.prefix else 0

    def query(self, base: LoadedModel, question: str) -> list[int]:
        """The token ids of a question after this prefix."""
        return base.chat.query(base.tokenizer, question, self.follows)


@dataclass(frozen=True)
class _AdaptedDecoder:
    """A decoder, and the KV of the header that it computes."""

    model: PreTrainedModel
    header: kv_cache.KVCache | None

    @classmethod
    def of(cls, model: PreTrainedModel, base: LoadedModel) -> _AdaptedDecoder:
        ids = list(base.chat.header)
        return cls(model, kv_cache.prefill(model, ids) if ids else None)


class Prefixes:
    """Builds the prefixes of a base model's artifacts; the base model is not changed.

    Artifacts of one checkpoint share its decoder: it is in memory once, and one batch can read questions
    after several of them.
    """

    def __init__(self, base: LoadedModel) -> None:
        self.base = base
        self._plain = _AdaptedDecoder.of(base.model, base)
        # Weak: a decoder is freed with the last artifact that needs it.
        self._decoders = WeakValueDictionary[str, _AdaptedDecoder]()

    @property
    def header(self) -> kv_cache.KVCache | None:
        """The KV of the header, computed by the base model."""
        return self._plain.header

    def of(self, artifact: Artifact) -> Prefix:
        """The prefix of an artifact.

        Raises `EngineError` for an unsupported kind, another model's shape or a trained decoder that is
        absent, and `ArtifactError` for a malformed artifact.
        """
        kind, base = artifact.manifest.kind, self.base
        if kind == "lora":  # the adapter changes the header's KV
            own = _AdaptedDecoder.of(load_adapter(artifact, base.model), base)
            return Prefix(own.model, own.header, False)
        if kind == RAGGED:
            return Prefix(self.ragged_reader, _ragged_memory(artifact, base.model).after(self.header), True)
        if kind not in ("kv", "embeds"):
            raise EngineError(f"this engine attaches kv, ragged_kv, embeds and lora artifacts, not {kind!r}")
        metrics = artifact.manifest.metrics
        decoder = self._decoder(str(metrics["decoder"])) if metrics.get("decoder") else self._plain
        answers = self._plain if metrics.get("answers") == "base" else decoder
        if kind == "embeds":
            embeddings = embeddings_of(artifact, int(base.model.config.hidden_size))[None]
            embeddings = embeddings.to(base.model.device, base.model.dtype)
            prefix = _read(decoder.model, embeddings, answers.header)
            return Prefix(answers.model, prefix, True, answers)
        memory = _memory(artifact, base.model)
        prefix = answers.header.join(memory) if answers.header else memory
        return Prefix(answers.model, prefix, True, answers)

    @cached_property
    def ragged_reader(self) -> PreTrainedModel:
        """The base model with an attention that reads ragged memories too.

        Raises `EngineError` for a model that it would not be right for.
        """
        try:
            return with_ragged_attention(self.base.model)
        except ValueError as error:
            raise EngineError(f"this model cannot read a memory of kind {RAGGED}: {error}") from error

    def compatible(self, readers: Sequence[Prefix]) -> list[Prefix]:
        """The readers, so that those of the base model and those of ragged memories can share a batch."""
        if not any(isinstance(reader.prefix, RaggedKV) for reader in readers):
            return list(readers)
        plain, ragged = self.base.model, self.ragged_reader
        return [replace(r, model=ragged) if r.model is plain else r for r in readers]

    def _decoder(self, identity: str) -> _AdaptedDecoder:
        decoder = self._decoders.get(identity)
        if decoder is None:
            decoder = _AdaptedDecoder.of(load_decoder(identity, self.base), self.base)
            self._decoders[identity] = decoder
        return decoder


@torch.no_grad()
def _read(model: PreTrainedModel, embeddings: Tensor, past: kv_cache.KVCache | None) -> kv_cache.KVCache:
    """The KV of ``past`` followed by ``embeddings`` ``[1, token, hidden]``."""
    start = past.tokens if past else 0
    cache = past.cache() if past else kv_cache.KVCache((), ()).cache()
    positions = torch.arange(start, start + embeddings.shape[1], device=embeddings.device)[None]
    model.base_model(inputs_embeds=embeddings, position_ids=positions, past_key_values=cache, use_cache=True)
    return kv_cache.KVCache.of(cache)


def embeddings_of(artifact: Artifact, hidden: int) -> Tensor:
    """The input embeddings ``[token, hidden]`` of an artifact of kind ``embeds``.

    Its ``embeddings`` ``[chunk, hidden]`` are each enclosed in the two ``wrappers`` ``[2, hidden]``, if it
    has any. Raises `ArtifactError` for other shapes or numbers that are not finite.
    """
    names = {spec.name for spec in artifact.manifest.tensors}
    parts = {name: artifact.tensor(name) for name in ("embeddings", *sorted(names & {"wrappers"}))}
    for name, part in parts.items():
        if part.dim() != 2 or part.shape[1] != hidden or not bool(part.isfinite().all()):
            raise ArtifactError(
                f"not a sound memory: {name} has the shape {list(part.shape)}, or no finite numbers"
            )
    embeddings = parts["embeddings"]
    if "wrappers" in parts:
        if len(parts["wrappers"]) != 2:
            raise ArtifactError(f"not a sound memory: it has {len(parts['wrappers'])} wrappers, not 2")
        wrappers = parts["wrappers"].to(embeddings.dtype)
        start, end = (wrapper.expand_as(embeddings) for wrapper in wrappers)
        embeddings = torch.stack((start, embeddings, end), 1).flatten(0, 1)
    if len(embeddings) != artifact.manifest.tokens:
        raise ArtifactError(
            f"not a sound memory: {len(embeddings)} positions, {artifact.manifest.tokens} claimed"
        )
    return embeddings


def _memory(artifact: Artifact, model: PreTrainedModel) -> kv_cache.KVCache:
    """The KV of an artifact of kind ``kv``; see `memkit.artifact.kv`."""
    keys, values = read_kv(artifact)
    _require_shape((len(keys), keys.shape[1], keys.shape[3]), model)
    parts = [tuple(layer[None].to(model.device, model.dtype) for layer in part) for part in (keys, values)]
    return kv_cache.KVCache(*parts)


def _require_shape(found: tuple[int, int, int], model: PreTrainedModel) -> None:
    """Raise `EngineError` unless a memory of these layers, KV heads and head size fits the model."""
    own = kv_shape(model.config)
    if found != own:
        sizes = ["{} layers of {} heads of {}".format(*each) for each in (found, own)]
        raise EngineError(f"the artifact has {sizes[0]}, the model {sizes[1]}")


def _ragged_memory(artifact: Artifact, model: PreTrainedModel) -> RaggedKV:
    """The memory of an artifact of kind ``ragged_kv``; see `memkit.artifact.ragged`."""
    layers = read_ragged(artifact)
    _require_shape((len(layers), len(layers[0]), int(layers[0][0][0].shape[1])), model)
    device, dtype = model.device, model.dtype
    return RaggedKV(
        tuple(
            tuple(Rows(k.to(device, dtype), v.to(device, dtype), b.to(device)) for k, v, b in heads)
            for heads in layers
        ),
        artifact.manifest.tokens,
    )
