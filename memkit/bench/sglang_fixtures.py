"""Artifacts for the SGLang benchmarks: exact memories of generated documents, of each kind."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from memkit.artifact.format import Artifact, Manifest
from memkit.document import Document
from memkit.engine.base import Request
from memkit.engine.sglang.plugin.config import PluginConfig
from memkit.engine.sglang.plugin.header import AXES
from memkit.engine.sglang.plugin.protocol import Claim, tenant_folder
from memkit.engine.sglang.plugin.server_args import prepare
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.engine import TransformersEngine
from memkit.engine.transformers.lora import AXES_A, AXES_B, adapter_config, targeted
from memkit.errors import EngineError
from memkit.evals.records import generated
from memkit.models.chat import text_ids
from memkit.models.loading import LoadedModel

MAKER = "memkit.bench.sglang_fixtures"
RANK = 4
TARGETS = ("q_proj", "v_proj")
STRENGTH = 0.6  # large enough that different LoRAs give different answers
KINDS = ("kv", "embeds", "lora")


@dataclass(frozen=True)
class Item:
    """An artifact, a question that it answers, and the expected answer, from the in-process engine."""

    artifact: Artifact
    question: str
    expected: str

    @property
    def tenant(self) -> str:
        return self.artifact.manifest.tenant

    @property
    def claim(self) -> Claim:
        kind: Any = self.artifact.manifest.kind
        return Claim(kind, tenant_folder(self.tenant), self.artifact.id)


class ArtifactMaker:
    """Creates artifacts without training.

    ``kv`` artifacts hold the frozen model's keys and values of the text, ``embeds`` its token embeddings, and
    ``lora`` random weights. They are processed like trained ones, at the same cost.
    """

    def __init__(self, reference: TransformersEngine, seed: int) -> None:
        self.reference, self.base = reference, reference.base
        self._records = generated(1_000_000, seed)
        self._seed = seed

    def items(self, kind: str, tenant: str, count: int, multiple: int = 1) -> list[Item]:
        """``count`` questions about one document, without expected answers."""
        record = next(self._records)
        artifact = self.artifact(kind, record.context, tenant, multiple)
        return [Item(artifact, question.text, "") for question in record.questions[:count]]

    def answered(self, item: Item, max_tokens: int) -> Item:
        """The item with the in-process engine's answer as expected answer."""
        handle = self.reference.attach(item.artifact)
        request = Request(item.question, handle=handle, max_tokens=max_tokens)
        (completion,) = self.reference.generate([request])
        self.reference.detach(handle)
        return replace(item, expected=completion.text)

    def artifact(self, kind: str, text: str, tenant: str, multiple: int = 1) -> Artifact:
        """An artifact of a text; a ``kv`` artifact ends at a multiple of ``multiple`` tokens."""
        header = len(self.base.chat.header)
        ids = text_ids(self.base.tokenizer, text)
        ids += ids[: -(header + len(ids)) % multiple] if kind == "kv" else []
        digest = Document(text).digest
        settings: dict[str, Any] = {"metrics": {}}
        tensors: dict[str, tuple[torch.Tensor, tuple[str, ...]]]
        if kind == "kv":
            read = kv_cache.prefill(self.base.model, [*self.base.chat.header, *ids]).slice(header)
            tensors = {"keys": (torch.cat(read.keys), AXES), "values": (torch.cat(read.values), AXES)}
        elif kind == "embeds":
            rows = self.base.model.get_input_embeddings().get_parameter("weight").detach()
            tensors = {"embeddings": (rows[torch.tensor(ids)], ("token", "hidden"))}
        else:
            ids, tensors = [], self._adapter(int(digest[:8], 16))
            settings["metrics"] = {"adapter": adapter_config(RANK, 2.0 * RANK, TARGETS)}
        manifest = Manifest(
            kind=kind,  # type: ignore[arg-type] # one of three
            compiler=MAKER,
            compiler_version="1",
            config={"document": digest},
            seed=self._seed,
            fingerprint=self.base.fingerprint,
            tokens=len(ids),
            tenant=tenant,
            sources=(),
            **settings,
        )
        return Artifact.decode(Artifact.encode(manifest, {n: (t.cpu(), a) for n, (t, a) in tensors.items()}))

    def _adapter(self, seed: int) -> dict[str, tuple[torch.Tensor, tuple[str, ...]]]:
        random = torch.Generator().manual_seed(seed)
        tensors = dict[str, tuple[torch.Tensor, tuple[str, ...]]]()
        for name, layer in targeted(self.base.model, TARGETS).items():
            a = torch.randn(RANK, layer.in_features, generator=random) / layer.in_features**0.5
            b = torch.randn(layer.out_features, RANK, generator=random) * STRENGTH
            for key, weight, axes in (("A", a, AXES_A), ("B", b, AXES_B)):
                tensors[f"base_model.model.{name}.lora_{key}.weight"] = (
                    weight.to(self.base.model.dtype),
                    axes,
                )
        return tensors


class ArtifactFolder:
    """The artifact store of a bank, without its catalog: a folder that servers read."""

    def __init__(self, home: Path, base: LoadedModel) -> None:
        self.home = home
        (home / "artifacts").mkdir(parents=True, exist_ok=True)
        self.config: PluginConfig = prepare(home, base)

    def path(self, item: Item) -> Path:
        return self.home / "artifacts" / item.claim.file

    def publish(self, item: Item) -> None:
        path = self.path(item)
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".partial")
        temporary.write_bytes(item.artifact.with_manifest(item.artifact.manifest))
        temporary.replace(path)

    def forget(self, item: Item) -> None:
        self.path(item).unlink(missing_ok=True)


def reference_logprobs(engine: TransformersEngine, request: Request) -> list[tuple[int, float]]:
    """The tokens of a greedy answer with their log-probabilities, including its end, in this process."""
    reader = engine.reader(request)
    query = reader.query(engine.base, request.question)
    (decoded,) = kv_cache.decode(
        reader.model, reader.prefix, [query], max_tokens=request.max_tokens, end=engine.base.chat.end
    )
    ids = decoded.ids if len(decoded.ids) == request.max_tokens else [*decoded.ids, engine.base.chat.end]
    if not ids:
        raise EngineError("the model answered nothing")
    batch = kv_cache.AnswerBatch.of([(query, ids)], reader.prefix, engine.base.model.device)
    with torch.no_grad():
        logprobs = kv_cache.answer_logits(reader.model, reader.prefix, batch).log_softmax(-1)
    return list(zip(ids, logprobs.gather(1, batch.target[:, None])[:, 0].tolist(), strict=True))
