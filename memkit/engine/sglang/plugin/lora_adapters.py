"""LoRA artifacts as the files that SGLang loads, written on the server from the bank."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from memkit.engine.sglang.plugin.artifact_files import Artifacts
from memkit.engine.sglang.plugin.protocol import ADAPTER, Claim
from memkit.engine.transformers.lora import export_peft
from memkit.errors import EngineError


class Adapters:
    """The folders of adapters that a server has loaded; they go with it."""

    def __init__(self, artifacts: Artifacts, fingerprint: str) -> None:
        self._artifacts, self._fingerprint = artifacts, fingerprint
        self._folder = Path(tempfile.mkdtemp(prefix="memkit-adapters-"))

    def path(self, name: str, path: str) -> str:
        """Where the adapter lies that a client wants loaded under ``name``.

        ``path`` is the artifact's extra_key, or what this gave before. Paths of adapters that are nobody's
        artifact are left as they are. Raises `EngineError` where name and path do not belong together,
        `ArtifactError` for an artifact that holds no sound LoRA.
        """
        ours = Path(path).is_relative_to(self._folder)
        claim = self._claim_of(Path(path)) if ours else Claim.parse(path)
        if claim is None:
            if name.startswith(ADAPTER):
                raise EngineError(f"the name {name!r:.40} is kept for artifacts; choose another")
            return path
        if claim.kind != "lora" or claim.adapter != name:
            raise EngineError(f"the adapter {name!r:.40} is not the artifact {path!r:.40}")
        artifact = self._artifacts.get(claim, self._fingerprint, verify=True)
        folder = self._folder / claim.tenant / claim.artifact
        if not folder.exists():
            partial = Path(tempfile.mkdtemp(dir=self._folder))
            export_peft(artifact, partial)
            folder.parent.mkdir(exist_ok=True)
            if not folder.exists():
                partial.rename(folder)
        return str(folder)

    def _claim_of(self, path: Path) -> Claim:
        """The artifact of a folder that `path` named; `ValueError` for any other."""
        tenant, artifact = path.relative_to(self._folder).parts
        return Claim("lora", tenant, artifact)

    def unloaded(self, name: str) -> None:
        """Remove the files of an adapter; they are written again when it is loaded again."""
        if name.startswith(ADAPTER):
            claim = Claim("lora", *name.removeprefix(ADAPTER).split("-", 1))
            shutil.rmtree(self._folder / claim.tenant / claim.artifact, ignore_errors=True)

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
