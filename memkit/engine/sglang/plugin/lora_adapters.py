"""Write LoRA artifacts from the bank as the adapter files that SGLang loads."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from memkit.engine.sglang.plugin.artifact_files import Artifacts
from memkit.engine.sglang.plugin.protocol import ADAPTER, Claim
from memkit.engine.transformers.lora import export_peft
from memkit.errors import EngineError


class Adapters:
    """The adapter files of a server, in a temporary folder that is removed when it closes."""

    def __init__(self, artifacts: Artifacts, fingerprint: str) -> None:
        self._artifacts, self._fingerprint = artifacts, fingerprint
        self._folder = Path(tempfile.mkdtemp(prefix="memkit-adapters-"))

    def path(self, name: str, path: str) -> str:
        """The folder of the adapter that a client wants to load as ``name``.

        ``path`` is the artifact's ``extra_key``, or a folder that was returned before. The path of an adapter
        that is not an artifact is returned unchanged. Raises `EngineError` when name and path do not match,
        `ArtifactError` for an artifact without a valid LoRA.
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
        """The claim of a folder that `path` returned. Raises `ValueError` for any other folder."""
        tenant, artifact = path.relative_to(self._folder).parts
        return Claim("lora", tenant, artifact)

    def unloaded(self, name: str) -> None:
        """Remove the files of an adapter that was unloaded; loading it again writes them again."""
        if name.startswith(ADAPTER):
            claim = Claim("lora", *name.removeprefix(ADAPTER).split("-", 1))
            shutil.rmtree(self._folder / claim.tenant / claim.artifact, ignore_errors=True)

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
