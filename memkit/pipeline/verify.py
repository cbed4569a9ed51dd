"""Attest and replay: an artifact in the bank is checked again, from its bytes to its answers."""

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
    """What was found about an artifact that may stay.

    ``calibrated``: the gate has thresholds for its model and compiler. ``reproduced``: the self-test
    gave the figures that are written in the artifact. ``replayed``: it was compiled again, to the byte.
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
    """Check the artifact's model, test it again, and with ``replay`` compile it again from ``source``.

    Raises `FingerprintError` for another model's artifact, `VerificationError` when the gate would
    refuse it today or the replay differs.
    """
    artifact.require(engine.fingerprint)
    verdict = judge(engine, source, artifact, config)
    if verdict.refusal:
        raise VerificationError(verdict.refusal)
    if replay and _replay(artifact, source, engine.base, progress) != artifact.id:
        raise VerificationError(
            "compiling it again gave other bytes: another machine or another version of a library, or the "
            "artifact is not what its own settings and source give"
        )
    written = artifact.manifest.verification
    reproduced = all(written.get(name) == value for name, value in verdict.measured.plain().items())
    return VerificationReport(
        artifact.id, verdict.measured, verdict.thresholds is not None, reproduced, replay
    )


def _replay(artifact: Artifact, source: Document, base: LoadedModel, progress: Progress) -> str:
    """The id of the artifact that the same compiler, settings and source give now."""
    manifest = artifact.manifest
    compiler = registry.compiler(manifest.compiler, manifest.config)
    if compiler.version != manifest.compiler_version:
        raise VerificationError(
            f"it was made by {manifest.compiler} {manifest.compiler_version}, version {compiler.version} is "
            "installed: compile it anew"
        )
    made = compiler.compile(source, base, tenant=manifest.tenant, progress=progress)
    again = Artifact.decode(made.data)
    data = again.with_manifest(
        replace(again.manifest, verification=manifest.verification, signature=manifest.signature)
    )
    return hashlib.sha256(data).hexdigest()
