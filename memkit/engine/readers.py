"""What reads a question: a model, and what stands in front of it. One for every attached artifact."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedModel

from memkit.artifact import Artifact
from memkit.engine import kv
from memkit.engine.lora import load_adapter
from memkit.errors import EngineError
from memkit.models.loading import LoadedModel


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

    Raises `EngineError` for a kind that this engine does not attach or a memory of another size,
    `ArtifactError` for an adapter that is not sound.
    """
    kind = artifact.manifest.kind
    if kind == "kv":
        memory = _memory(artifact, base.model)
        return Reader(base.model, header.join(memory) if header else memory, True)
    if kind == "lora":
        model = load_adapter(artifact, base.model)
        ids = list(base.chat.header)  # read again: the adapter changes how
        return Reader(model, kv.prefill(model, ids) if ids else None, False)
    raise EngineError(f"this engine attaches kv and lora artifacts, not {kind!r}")


def _memory(artifact: Artifact, model: PreTrainedModel) -> kv.KV:
    """The artifact's tensors ``keys`` and ``values``, ``[layer, kv_head, token, head_dim]``."""
    keys, values = (
        tuple(layer[None].to(model.device, model.dtype) for layer in artifact.tensor(name))
        for name in ("keys", "values")
    )
    if len(keys) != int(model.config.num_hidden_layers):
        raise EngineError(f"the artifact has {len(keys)} layers, the model {model.config.num_hidden_layers}")
    return kv.KV(keys, values)
