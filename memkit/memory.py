"""The façade: remember, ask, forget. The whole path of a document and of a question."""

from __future__ import annotations

import builtins
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from memkit import registry
from memkit.admission import AdmissionConfig, judge
from memkit.artifact import Artifact
from memkit.background import Background
from memkit.bank import Bank, MemoryInfo, Receipt
from memkit.compilers.base import Compiled, Progress, silent
from memkit.document import Document, Span
from memkit.engine.base import Handle, Request
from memkit.engine.transformers import TransformersEngine
from memkit.errors import (
    ArtifactError,
    CompileError,
    ConfigError,
    MemkitError,
    NotFoundError,
    VerificationError,
)
from memkit.models.loading import LoadedModel
from memkit.router.candidates import Candidate, candidates
from memkit.router.embed import Embedder, LexicalEmbedder
from memkit.router.gate import Decision, GateConfig, Route, decide
from memkit.signing import Signer
from memkit.verify import Verified, verified

MAX_CHARACTERS = 5_000_000  # of one document


@dataclass(frozen=True)
class Trace:
    """Why an answer is what it is. ``spans`` are character spans of the memory's source."""

    question: str
    route: Route
    reason: str
    calibrated: bool
    candidates: tuple[tuple[str, str, float], ...]  # id, title, similarity
    memory_id: str | None
    artifact_id: str | None
    version: int | None
    spans: tuple[Span, ...]
    prompt_tokens: int
    ttft_ms: float
    total_ms: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """An answer, the route it took and its trace."""

    text: str
    route: Route
    trace: Trace = field(repr=False)


class Memory:
    """One user's memories in one bank, in front of one frozen model.

    ``path`` is the bank's folder (default: ``MEMKIT_HOME``, else the platform's data folder);
    ``model`` a name that `memkit.models.loading.load` knows (default: ``MEMKIT_MODEL``, else nano).
    Everything is read and written in the name of ``user`` alone. Artifacts are signed with ``signer``
    (default: the key in the file that ``MEMKIT_SIGNING_KEY`` names, if any).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        model: str | LoadedModel | None = None,
        user: str = "default",
        *,
        compiler: str = "lcc",
        options: Mapping[str, Any] | None = None,
        engine: TransformersEngine | None = None,
        embedder: Embedder | None = None,
        gate: GateConfig | None = None,
        admission: AdmissionConfig | None = None,
        signer: Signer | None = None,
    ) -> None:
        self.user = user
        self.bank = Bank(Path(path) if path is not None else default_home())
        self._model = model or os.environ.get("MEMKIT_MODEL") or "nano"
        self._engine = engine
        self._compiler, self._options = compiler, dict(options or {})
        registry.compiler(compiler, self._options)  # a wrong option is an error now, not tonight
        self._embedder: Embedder = embedder or LexicalEmbedder()
        self._gate = gate or GateConfig()
        self._admission = admission or AdmissionConfig()
        key = os.environ.get("MEMKIT_SIGNING_KEY")
        self._signer = signer or (Signer.from_file(key) if key else None)
        self._background = Background(self._compile_quietly)

    @property
    def engine(self) -> TransformersEngine:
        """The engine; loading the model waits until it is needed."""
        if self._engine is None:
            self._engine = TransformersEngine(self._model)
        return self._engine

    # -- remember -------------------------------------------------------------------------------
    def remember(
        self,
        document: str | Document,
        *,
        title: str = "",
        wait: bool = False,
        compile: bool = True,
        progress: Progress = silent,
    ) -> MemoryInfo:
        """Store a document; it can be asked about at once, from its text.

        Compilation runs in the background, or before returning with ``wait``; ``compile=False``
        leaves the memory on its text. Remembering the same text again changes nothing.
        Raises `DocumentError` for a document that cannot be remembered.
        """
        document = document if isinstance(document, Document) else Document(document, title)
        if len(document.text) > MAX_CHARACTERS:
            raise ConfigError(
                f"the document has {len(document.text):,} characters, the most is {MAX_CHARACTERS:,}; "
                "split it"
            )
        chunks = document.chunks()
        texts = [document.text[s.start : s.end] for s in chunks]
        info = self.bank.remember(self.user, document, chunks, self._embedder.passages(texts))
        if not compile or (info.status == "compiled" and not self._obstacle(info)):
            return info
        if wait:
            return self.compile(info.id, progress=progress)
        self._background.add(info.id)
        return info

    def compile(self, memory_id: str, *, progress: Progress = silent) -> MemoryInfo:
        """Compile a memory from its source and publish the artifact, if the admission gate lets it pass.

        Raises `CompileError` when that is impossible, `VerificationError` when the gate refuses the
        artifact; the memory then stays on its text, and its ``error`` says why.
        """
        return self.compiled(memory_id, progress=progress)[0]

    def compiled(self, memory_id: str, *, progress: Progress = silent) -> tuple[MemoryInfo, Compiled]:
        """As `compile`, and what the compilation cost."""
        info = self.bank.get(self.user, memory_id)
        compiler = registry.compiler(self._compiler, self._options)
        source = self.bank.source(self.user, info.id)
        unfinished = self.bank.unfinished(self.user, info.id)
        try:
            made = compiler.compile(
                source, self.engine.base, tenant=self.user, progress=progress, unfinished=unfinished
            )
            artifact = Artifact.decode(made.data)
            verdict = judge(self.engine, source, artifact, self._admission)
            if verdict.refusal:
                raise VerificationError(f"the artifact was not published: {verdict.refusal}")
        except (CompileError, VerificationError) as error:
            unfinished.unlink(missing_ok=True)
            self.bank.fail(self.user, info.id, str(error))
            raise
        unfinished.unlink(missing_ok=True)
        data = artifact.with_manifest(replace(artifact.manifest, verification=verdict.plain()))
        if self._signer:
            data = self._signer.sign(Artifact.decode(data))
        return self.bank.publish(self.user, info.id, data), made

    def _compile_quietly(self, memory_id: str) -> None:
        try:
            self.compile(memory_id)
        except NotFoundError:
            pass  # forgotten meanwhile
        except MemkitError as error:
            self.bank.fail(self.user, memory_id, str(error))

    def wait(self) -> None:
        """Wait until every background compilation has ended."""
        self._background.wait()

    # -- ask ------------------------------------------------------------------------------------
    def ask(self, question: str, *, max_tokens: int = 64) -> Answer:
        """Answer a question from the best memory, or without one.

        Raises `ContextTooLongError` when the question itself does not fit the model.
        """
        if not question.strip():
            raise ConfigError("the question is empty")
        ranked = candidates(self.bank, self.user, question, self._embedder)
        notes = list[str]()
        decision, handle = self._decide(ranked, notes)
        request, spans = self._request(question, decision, handle, max_tokens)
        (completion,) = self.engine.generate([request])
        chosen = decision.candidate.memory if decision.candidate else None
        trace = Trace(
            question=question,
            route=decision.route,
            reason=decision.reason,
            calibrated=decision.calibrated,
            candidates=tuple((c.memory.id, c.memory.title, c.similarity) for c in ranked),
            memory_id=chosen.id if chosen else None,
            artifact_id=handle.artifact_id if handle else None,
            version=chosen.version if chosen and handle else None,
            spans=spans,
            prompt_tokens=completion.prompt_tokens,
            ttft_ms=completion.ttft_ms,
            total_ms=completion.total_ms,
            notes=tuple(notes),
        )
        return Answer(completion.text, decision.route, trace)

    def _decide(self, ranked: list[Candidate], notes: list[str]) -> tuple[Decision, Handle | None]:
        """The gate's decision, and the attached artifact if it is latent."""
        with ExitStack() as stack:
            opened = dict[str, Artifact]()  # read and checked once, for the gate and for the engine

            def obstacle_of(candidate: Candidate) -> str:
                usable = self._usable(candidate.memory)
                if isinstance(usable, str):
                    return usable
                opened[candidate.memory.id] = stack.enter_context(usable)
                return ""

            decision = decide(ranked, obstacle_of, self._gate)
            if decision.route != "latent" or decision.candidate is None:
                return decision, None
            try:
                return decision, self.engine.attach(opened[decision.candidate.memory.id])
            except ArtifactError as error:
                notes.append(f"the artifact of {decision.candidate.memory.id} cannot be used: {error}")
                fallen = Decision("text", decision.candidate, "its artifact cannot be used (see notes)")
                return fallen, None

    def _obstacle(self, info: MemoryInfo) -> str:
        """Why a memory's artifact cannot be used with this model, or ""."""
        usable = self._usable(info)
        if isinstance(usable, str):
            return usable
        usable.close()
        return ""

    def _usable(self, info: MemoryInfo) -> Artifact | str:
        """A memory's artifact, to be closed after use, or why it cannot be used with this model."""
        if info.artifact_id is None:
            return f"it could not be compiled: {info.error}" if info.error else "it is not compiled yet"
        try:
            with ExitStack() as stack:
                artifact = stack.enter_context(self.bank.artifact(self.user, info.id))
                artifact.require(self.engine.fingerprint)
                stack.pop_all()  # the caller closes it
                return artifact
        except (ArtifactError, NotFoundError) as error:
            return str(error)

    def _request(
        self, question: str, decision: Decision, handle: Handle | None, max_tokens: int
    ) -> tuple[Request, tuple[Span, ...]]:
        if decision.candidate is None:
            return Request(question, max_tokens=max_tokens), ()
        if handle is not None:
            spans = tuple(Span(h.start, h.end) for h in decision.candidate.hits[:1])
            return Request(question, handle=handle, max_tokens=max_tokens), spans
        text, spans = self._passages(decision.candidate, question, max_tokens)
        return Request(question, context=text, max_tokens=max_tokens), spans

    def _passages(self, candidate: Candidate, question: str, max_tokens: int) -> tuple[str, tuple[Span, ...]]:
        """The candidate's best chunks that fit half the window, in the document's order."""
        source = self.bank.source(self.user, candidate.memory.id).text
        room = self.engine.window // 2 - self.engine.count_tokens(question) - max_tokens
        chosen = list[Span]()
        for hit in candidate.hits:
            cost = self.engine.count_tokens(source[hit.start : hit.end])
            if chosen and cost > room:
                break
            chosen.append(Span(hit.start, hit.end))
            room -= cost
        chosen.sort(key=lambda s: s.start)
        return "\n".join(source[s.start : s.end].strip() for s in chosen), tuple(chosen)

    # -- manage ---------------------------------------------------------------------------------
    def list(self) -> list[MemoryInfo]:
        """All memories of this user, newest last."""
        return self.bank.list(self.user)

    def show(self, memory_id: str) -> MemoryInfo:
        """One memory. Raises `NotFoundError`."""
        return self.bank.get(self.user, memory_id)

    def verify(self, memory_id: str, *, replay: bool = False, progress: Progress = silent) -> Verified:
        """Re-read an artifact, check every byte and its fingerprint, and test it again.

        ``replay`` also compiles it again from its source, with its own settings; on the same machine
        that gives the same bytes. Raises `ArtifactError` for bytes that cannot be used, `VerificationError`
        when the gate would refuse the artifact today, or the replay differs.
        """
        with self.bank.artifact(self.user, memory_id) as artifact:
            source = self.bank.source(self.user, memory_id)
            return verified(artifact, source, self.engine, self._admission, replay=replay, progress=progress)

    def forget(self, memory_id: str | None = None) -> builtins.list[Receipt]:
        """Forget one memory, or all of this user: text, vectors, artifacts, attached handles.

        Raises `NotFoundError` when there is no such memory.
        """
        chosen = [self.show(memory_id)] if memory_id is not None else self.list()
        if self._engine is not None:
            for info in chosen:
                if info.artifact_id:
                    self._engine.detach(Handle(info.artifact_id, 0))
        return self.bank.forget(self.user, None if memory_id is None else chosen[0].id)

    def close(self) -> None:
        """Drop what waits to be compiled and close the bank."""
        self._background.stop()
        self.bank.close()

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def default_home() -> Path:
    """``MEMKIT_HOME``, else the platform's folder for user data."""
    from platformdirs import user_data_path

    home = os.environ.get("MEMKIT_HOME")
    return Path(home) if home else user_data_path("memkit", appauthor=False)


__all__ = ["Answer", "Memory", "Trace", "Verified", "default_home"]
