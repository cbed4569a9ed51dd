"""What reads a question: a model, and what stands in front of it. One for every attached artifact."""

from __future__ import annotations

from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from transformers import PreTrainedModel

from memkit.artifact.format import Artifact
from memkit.artifact.quantization import dequantized
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.decoder_checkpoint import load_decoder
from memkit.engine.transformers.lora import load_adapter
from memkit.errors import ArtifactError, EngineError
from memkit.models.loading import LoadedModel


@dataclass(frozen=True)
class Prefix:
    """``prefix`` is the KV of everything in front of a question, as ``model`` reads it; None: nothing is.

    ``follows``: the question follows a context, or what stands for one, and is phrased so.
    """

    model: PreTrainedModel
    prefix: kv_cache.KVCache | None
    follows: bool
    keeps: object = field(default=None, repr=False)  # what must not go before this reader does

    @property
    def tokens(self) -> int:
        """Positions in front of the question."""
        return self.prefix.tokens if self.prefix else 0

    def query(self, base: LoadedModel, question: str) -> list[int]:
        """Ids of a question as this reader must get it."""
        return base.chat.query(base.tokenizer, question, self.follows)


@dataclass(frozen=True)
class _AdaptedDecoder:
    """A trained decoder, and the KV of the header as it reads it."""

    model: PreTrainedModel
    header: kv_cache.KVCache | None

    @classmethod
    def of(cls, model: PreTrainedModel, base: LoadedModel) -> _AdaptedDecoder:
        ids = list(base.chat.header)
        return cls(model, kv_cache.prefill(model, ids) if ids else None)


class Prefixes:
    """The readers of one base model's artifacts. The base is not changed.

    Artifacts of one checkpoint share its decoder, so that it is in memory once, and so that one pass of it
    can read questions behind several of them.
    """

    def __init__(self, base: LoadedModel) -> None:
        self.base = base
        self._plain = _AdaptedDecoder.of(base.model, base)
        self._decoders = WeakValueDictionary[
            str, _AdaptedDecoder
        ]()  # gone with the last artifact that needs it

    @property
    def header(self) -> kv_cache.KVCache | None:
        """The KV of the header, as the base model reads it."""
        return self._plain.header

    def of(self, artifact: Artifact) -> Prefix:
        """The reader that answers with an artifact.

        Raises `EngineError` for a kind that this engine does not attach, a memory of another size or a
        trained decoder that is not here, `ArtifactError` for a memory or an adapter that is not sound.
        """
        kind, base = artifact.manifest.kind, self.base
        if kind == "lora":  # the header is read again: the adapter changes how
            own = _AdaptedDecoder.of(load_adapter(artifact, base.model), base)
            return Prefix(own.model, own.header, False)
        if kind not in ("kv", "embeds"):
            raise EngineError(f"this engine attaches kv, embeds and lora artifacts, not {kind!r}")
        metrics = artifact.manifest.metrics
        decoder = self._decoder(str(metrics["decoder"])) if metrics.get("decoder") else self._plain
        answers = self._plain if metrics.get("answers") == "base" else decoder
        if kind == "embeds":
            made = embeddings_of(artifact, int(base.model.config.hidden_size))[None]
            read = _read(decoder.model, made.to(base.model.device, base.model.dtype), answers.header)
            return Prefix(answers.model, read, True, answers)
        memory = _memory(artifact, base.model)
        prefix = answers.header.join(memory) if answers.header else memory
        return Prefix(answers.model, prefix, True, answers)

    def _decoder(self, identity: str) -> _AdaptedDecoder:
        found = self._decoders.get(identity)
        if found is None:
            found = self._decoders[identity] = _AdaptedDecoder.of(
                load_decoder(identity, self.base), self.base
            )
        return found


@torch.no_grad()
def _read(model: PreTrainedModel, embeddings: Tensor, past: kv_cache.KVCache | None) -> kv_cache.KVCache:
    """The KV after ``embeddings``, ``[1, token, hidden]``, behind ``past``."""
    start = past.tokens if past else 0
    cache = past.cache() if past else kv_cache.KVCache((), ()).cache()
    positions = torch.arange(start, start + embeddings.shape[1], device=embeddings.device)[None]
    model.base_model(inputs_embeds=embeddings, position_ids=positions, past_key_values=cache, use_cache=True)
    return kv_cache.KVCache.of(cache)


def embeddings_of(artifact: Artifact, hidden: int) -> Tensor:
    """The artifact's ``embeddings``, ``[chunk, hidden]``, each between ``wrappers``, ``[2, hidden]``, if any.

    Returns ``[token, hidden]``. Raises `ArtifactError` for a memory that is not sound.
    """
    names = {spec.name for spec in artifact.manifest.tensors}
    parts = {name: artifact.tensor(name) for name in ("embeddings", *sorted(names & {"wrappers"}))}
    for name, part in parts.items():
        if part.dim() != 2 or part.shape[1] != hidden or not bool(part.isfinite().all()):
            raise ArtifactError(
                f"not a sound memory: {name} has the shape {list(part.shape)}, or no finite numbers"
            )
    made = parts["embeddings"]
    if "wrappers" in parts:
        if len(parts["wrappers"]) != 2:
            raise ArtifactError(f"not a sound memory: it has {len(parts['wrappers'])} wrappers, not 2")
        start, end = (wrapper.expand_as(made) for wrapper in parts["wrappers"].to(made.dtype))
        made = torch.stack((start, made, end), 1).flatten(0, 1)
    if len(made) != artifact.manifest.tokens:
        raise ArtifactError(f"not a sound memory: {len(made)} positions, {artifact.manifest.tokens} claimed")
    return made


def _memory(artifact: Artifact, model: PreTrainedModel) -> kv_cache.KVCache:
    """The artifact's tensors ``keys`` and ``values``, ``[layer, kv_head, token, head_dim]``."""
    keys, values = (
        tuple(layer[None].to(model.device, model.dtype) for layer in dequantized(artifact, name))
        for name in ("keys", "values")
    )
    if len(keys) != int(model.config.num_hidden_layers):
        raise EngineError(f"the artifact has {len(keys)} layers, the model {model.config.num_hidden_layers}")
    return kv_cache.KVCache(keys, values)
