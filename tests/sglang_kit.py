"""What the tests of SGLang share: a bank, artifacts of each kind, and engines over it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from memkit.artifact.format import Artifact, Manifest
from memkit.bench.sglang_process import Server, servers
from memkit.compilers.compact.compiler import Compact
from memkit.compilers.lcc.compiler import LCC
from memkit.compilers.lora.compiler import LoRA
from memkit.document import Document
from memkit.engine.sglang.engine import SGLangEngine
from memkit.engine.sglang.plugin.config import PluginConfig
from memkit.engine.sglang.plugin.header import read_secret
from memkit.engine.sglang.plugin.protocol import Claim, salt, tenant_folder
from memkit.engine.sglang.plugin.server_args import ServerFlags, prepare
from memkit.engine.sglang.workers import SGLangConfig
from memkit.models.loading import LoadedModel
from memkit.testing import TEXT, TINY

KINDS = ("kv", "embeds", "lora")


def embeds_artifact(base: LoadedModel, text: str, tenant: str, chunk: int = 4) -> Artifact:
    """Memory embeddings: the means of a text's token embeddings."""
    ids = base.tokenizer.encode(text, add_special_tokens=False)
    rows = base.model.get_input_embeddings().get_parameter("weight").detach()[torch.tensor(ids)]
    made = torch.stack([part.mean(0) for part in rows.split(chunk)])
    manifest = Manifest("embeds", "mean", "1", {}, 0, base.fingerprint, len(made), tenant, ())
    return Artifact.decode(Artifact.encode(manifest, {"embeddings": (made, ("chunk", "hidden"))}))


def artifact_of(
    kind: str, base: LoadedModel, tenant: str = "mira", text: str = TEXT, **options: Any
) -> Artifact:
    """A small artifact of that kind, or a compact one in the capped form, which is of the kind ``kv``.

    A LoRA is trained hard enough to change answers.
    """
    if kind == "embeds":
        return embeds_artifact(base, text, tenant)
    if kind == "kv":
        compiler: Any = LCC({**TINY["lcc"], "ratio": 2, **options})
    elif kind in ("ragged_kv", "capped"):
        form = {"preset": "capped"} if kind == "capped" else {}
        compiler = Compact({"ratio": 3, **form, **options})
    else:
        compiler = LoRA({**TINY["lora"], "lr": 0.05, **options})
    return Artifact.decode(compiler.compile(Document(text), base, tenant=tenant).data)


@dataclass(frozen=True)
class Shelf:
    """A bank's artifacts without the bank: a folder that servers read."""

    home: Path
    config: PluginConfig

    @classmethod
    def of(cls, home: Path, base: LoadedModel) -> Shelf:
        (home / "artifacts").mkdir(parents=True, exist_ok=True)
        return cls(home, prepare(home, base))

    def claim(self, artifact: Artifact) -> Claim:
        kind: Any = artifact.manifest.kind
        return Claim(kind, tenant_folder(artifact.manifest.tenant), artifact.id)

    def path(self, artifact: Artifact) -> Path:
        return self.home / "artifacts" / self.claim(artifact).file

    def publish(self, artifact: Artifact) -> Artifact:
        path = self.path(artifact)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(artifact._bytes())
        return artifact

    def salt(self, tenant: str) -> str:
        return salt(read_secret(self.config.secret), tenant_folder(tenant))

    def engine(self, urls: str | Sequence[str], model: str, **options: Any) -> SGLangEngine:
        config = SGLangConfig((urls,) if isinstance(urls, str) else tuple(urls), **options)
        return SGLangEngine(config, model, secret=read_secret(self.config.secret))


@dataclass(frozen=True)
class Served:
    """Servers of one model over one shelf, and an engine that uses them."""

    servers: list[Server]
    shelf: Shelf
    base: LoadedModel
    engine: SGLangEngine

    def post(self, path: str, payload: dict[str, Any], server: int = 0) -> Any:
        """What the server answers to anybody."""
        import httpx

        return httpx.post(self.servers[server].url + path, json=payload, timeout=60)

    def prompt(self, artifact: Artifact, question: str = "Where does Mira live?") -> list[int]:
        """The token ids of a question behind an artifact of the kinds kv and embeds."""
        chat = self.base.chat
        memory = [0] * artifact.manifest.tokens
        return [*chat.header, *memory, *chat.query(self.base.tokenizer, question, True)]

    def payload(self, artifact: Artifact, **changes: Any) -> dict[str, Any]:
        """A sound request for an artifact, as memkit sends it, with changes."""
        return {
            "input_ids": self.prompt(artifact),
            "extra_key": self.shelf.claim(artifact).key,
            "cache_salt": self.shelf.salt(artifact.manifest.tenant),
            "sampling_params": {"max_new_tokens": 6, "temperature": 0},
            **changes,
        }


@contextmanager
def serving(
    folder: Path,
    base: LoadedModel,
    flags: ServerFlags,
    count: int = 1,
    more: Sequence[str] = (),
    **options: Any,
) -> Iterator[Served]:
    """Servers of a model over a new shelf in ``folder``; ``options`` are the client's."""
    shelf = Shelf.of(folder / "bank", base)
    words = [*flags.of(base.name, shelf.config, "float32"), "--max-total-tokens", "8192"]
    if flags.lora_rank:
        words += ["--lora-backend", "torch_native"]
    with servers(folder, [*words, "--max-running-requests", "16", *more], count) as made:
        engine = shelf.engine([each.url for each in made], base.name, **options)
        try:
            yield Served(made, shelf, base, engine)
        finally:
            engine.close()
