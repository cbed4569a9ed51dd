"""What reads a question: a model, and what stands in front of it. One for every attached artifact."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from memkit.artifact import Artifact
from memkit.engine import kv
from memkit.engine.lora import load_adapter
from memkit.engine.trained import load_decoder
from memkit.errors import ArtifactError, EngineError
from memkit.models.loading import LoadedModel
from memkit.quantize import dequantized


@dataclass(frozen=True)
class Reader:
    """``prefix`` is the KV of everything in front of a question, as ``model`` reads it; None: nothing is.

    ``follows``: the question follows a context, or what stands for one, and is phrased so.
    """

    model: PreTrainedModel
    prefix: kv.KV | None
    follows: bool

    @property
    def tokens(self) -> int:
        """Positions in front of the question."""
        return self.prefix.tokens if self.prefix else 0

    def query(self, base: LoadedModel, question: str) -> list[int]:
        """Ids of a question as this reader must get it."""
        return base.chat.query(base.tokenizer, question, self.follows)


def attached(artifact: Artifact, base: LoadedModel, header: kv.KV | None) -> Reader:
    """The reader that answers with an artifact. ``base`` is not changed.

    Raises `EngineError` for a kind that this engine does not attach, a memory of another size or a trained
    decoder that is not here, `ArtifactError` for a memory or an adapter that is not sound.
    """
    kind = artifact.manifest.kind
    if kind == "lora":
        model = load_adapter(artifact, base.model)
        ids = list(base.chat.header)  # read again: the adapter changes how
        return Reader(model, kv.prefill(model, ids) if ids else None, False)
    if kind not in ("kv", "embeds"):
        raise EngineError(f"this engine attaches kv, embeds and lora artifacts, not {kind!r}")
    identity = artifact.manifest.metrics.get("decoder")
    decoder = load_decoder(str(identity), base) if identity else base.model
    answers = base.model if artifact.manifest.metrics.get("answers") == "base" else decoder
    if answers is not base.model and base.chat.header:
        header = kv.prefill(answers, list(base.chat.header))
    if kind == "embeds":
        made = embeddings_of(artifact, int(base.model.config.hidden_size))[None]
        read = _read(decoder, made.to(base.model.device, base.model.dtype), header)
        return Reader(answers, read, True)
    memory = _memory(artifact, base.model)
    return Reader(answers, header.join(memory) if header else memory, True)


@torch.no_grad()
def _read(model: PreTrainedModel, embeddings: Tensor, past: kv.KV | None) -> kv.KV:
    """The KV after ``embeddings``, ``[1, token, hidden]``, behind ``past``."""
    start = past.tokens if past else 0
    cache = past.cache() if past else kv.KV((), ()).cache()
    positions = torch.arange(start, start + embeddings.shape[1], device=embeddings.device)[None]
    model.base_model(inputs_embeds=embeddings, position_ids=positions, past_key_values=cache, use_cache=True)
    return kv.KV.of(cache)


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


def _memory(artifact: Artifact, model: PreTrainedModel) -> kv.KV:
    """The artifact's tensors ``keys`` and ``values``, ``[layer, kv_head, token, head_dim]``."""
    keys, values = (
        tuple(layer[None].to(model.device, model.dtype) for layer in dequantized(artifact, name))
        for name in ("keys", "values")
    )
    if len(keys) != int(model.config.num_hidden_layers):
        raise EngineError(f"the artifact has {len(keys)} layers, the model {model.config.num_hidden_layers}")
    return kv.KV(keys, values)
