"""Verify an artifact of the bank: test it again and, on request, compile it again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from memkit import registry
from memkit.artifact.format import Artifact
from memkit.compilers.base import Progress, silent
from memkit.document import Document
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import VerificationError
from memkit.models.loading import LoadedModel
from memkit.pipeline.admission import AdmissionConfig, SelfTestResult, judge


@dataclass(frozen=True)
class VerificationReport:
    """The result of a verification that an artifact passed.

    ``measured`` are the figures of the self-test. ``calibrated`` says whether there are thresholds for its
    model and compiler. ``reproduced`` says whether the self-test gave the figures in its manifest.
    ``replayed`` says whether it was compiled again, with identical bytes.
    """

    artifact_id: str
    measured: SelfTestResult
    calibrated: bool
    reproduced: bool
    replayed: bool


def verify(
    artifact: Artifact,
    source: Document,
    engine: TransformersEngine,
    config: AdmissionConfig,
    *,
    replay: bool = False,
    progress: Progress = silent,
) -> VerificationReport:
    """Check the artifact's model, test it again and, with ``replay``, compile it again from ``source``.

    ``config`` is that of the admission tests; ``progress`` is called after each step of a replay. Raises
    `FingerprintError` for another model's artifact, `VerificationError` if the artifact would be refused
    today or the replay differs.
    """
    artifact.require(engine.fingerprint)
    verdict = judge(engine, source, artifact, config)
    if verdict.refusal:
        raise VerificationError(verdict.refusal)
    if replay and _replay(artifact, source, engine.base, progress) != artifact.id:
        raise VerificationError(
            "compiling it again gives other bytes: the machine or the version of a library differs, or the "
            "artifact does not come from its settings and source"
        )
    written = artifact.manifest.verification
    reproduced = all(written.get(name) == value for name, value in verdict.measured.plain().items())
    return VerificationReport(
        artifact.id, verdict.measured, verdict.thresholds is not None, reproduced, replay
    )


def _replay(artifact: Artifact, source: Document, base: LoadedModel, progress: Progress) -> str:
    """The id of the artifact that the same compiler, settings and source produce now."""
    manifest = artifact.manifest
    compiler = registry.compiler(manifest.compiler, manifest.config)
    if compiler.version != manifest.compiler_version:
        raise VerificationError(
            f"it was made by {manifest.compiler} {manifest.compiler_version}, version {compiler.version} is "
            "installed: compile it again"
        )
    compiled = compiler.compile(source, base, tenant=manifest.tenant, progress=progress)
    replayed = Artifact.decode(compiled.data)
    data = replayed.with_manifest(
        replace(replayed.manifest, verification=manifest.verification, signature=manifest.signature)
    )
    return hashlib.sha256(data).hexdigest()
