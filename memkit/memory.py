"""`Memory`: remember, ask, forget. The stages behind it are in `memkit.pipeline`."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memkit import registry
from memkit._deprecated import deprecated
from memkit.answer import Answer, Part, Stream, Trace
from memkit.artifact.signing import Signer
from memkit.bank import Bank, MemoryInfo, Receipt
from memkit.bank.owners import Owner
from memkit.compilers.base import Compiled, Progress, silent
from memkit.config import Config
from memkit.document import Document, Span
from memkit.engine.base import Engine
from memkit.engine.factory import create_engine
from memkit.errors import ConfigError
from memkit.observability.events import LogObserver, Observer
from memkit.pipeline import ingest
from memkit.pipeline.admission import AdmissionConfig, usual_test
from memkit.pipeline.answer import RecalledText, Sampling, SearchResult, ask_many, recall, search, stream
from memkit.pipeline.compile import compile_memory
from memkit.pipeline.compile_job import compile_job
from memkit.pipeline.compile_queue import CompileQueue
from memkit.pipeline.context import CompileOptions, Context, Engines
from memkit.pipeline.ingest import MAX_CHARACTERS
from memkit.pipeline.usage import Usage
from memkit.router.embedders import Embedder, resolve_embedder
from memkit.router.router import GateChoice, Router, resolve_gate
from memkit.text.messages import MessageLike, Turns, When
from memkit.validation import check_arguments

if TYPE_CHECKING:  # they bring torch, which only compiling and answering need
    from memkit.compiler_choice import Choice
    from memkit.engine.transformers.engine import TransformersEngine
    from memkit.models.loading import LoadedModel
    from memkit.pipeline.forget_check import ForgetReport
    from memkit.pipeline.verify import VerificationReport
    from memkit.recompile.advice import AdvisorConfig


class _Default(str):
    """A default that can be told from the same text given by a caller."""


_CONFIGURED = _Default("default")


class Memory:
    """One user's memories in one bank, in front of one frozen model.

    What is not given as an argument comes from ``config``, and that, where it is not given either, from the
    environment and the configuration file (see `memkit.config.Config`).

    Args:
        path: The bank or its folder (``config.home``).
        model: A name that `memkit.models.loading.load` knows, or a loaded model (``config.model``).
        user: Whose memories are read and written, and nobody else's (``config.user``, else "default").
        compiler: The compiler's name, or "auto" (``config.compiler``); see `memkit.compiler_choice`.
        options: The compiler's own (``config.options``); not with "auto".
        engine: What answers (``config.engine``); the embedded engine compiles in any case.
        embedder: What retrieves memories: "lexical" by words, "sentence" by meaning, "hybrid" by both, a name
            that is registered under ``memkit.embedders``, or an embedder (``config.embedder``).
        gate: What decides between artifact, text and neither: "auto", "rule", "entropy", "learned", a name
            that is registered under ``memkit.gates``, a `GateConfig` or a `Gate` (``config.gate``).
        admission: The tests that an artifact must pass to be published.
        advisor: Which memories are left on their text.
        signer: Signs artifacts (the key file ``config.signing_key``, if any).
        clock: A function that returns the time, with its zone.
        observer: Receives answers and compilations (default: writes log records).
        database: The URL of a shared bank's database (see `memkit.bank.Bank`). A ``path`` without it is a
            bank of this machine, unless ``config`` is given.
        artifacts: The URL of a shared bank's artifacts.
        tenant: The tenant of a server whose user this is; "" for none.
        keep: Versions to keep of what is compiled in the background (``config.keep``; None: all).

    Raises `ConfigError` for arguments that are unknown or out of range, `BankError` for a bank that cannot be
    opened.
    """

    def __init__(
        self,
        path: str | Path | Bank | None = None,
        model: str | LoadedModel | None = None,
        user: str = _CONFIGURED,
        *,
        compiler: str | None = None,
        options: Mapping[str, Any] | None = None,
        engine: Engine | None = None,
        embedder: str | Embedder | None = None,
        gate: GateChoice | None = None,
        admission: AdmissionConfig | None = None,
        advisor: AdvisorConfig | None = None,
        signer: Signer | None = None,
        clock: Callable[[], datetime] | None = None,
        observer: Observer | None = None,
        database: str | None = None,
        artifacts: str | None = None,
        tenant: str = "",
        keep: int | None = None,
        config: Config | None = None,
    ) -> None:
        check_arguments(path, model, compiler, options, engine, keep, clock)
        config = _resolved(config, path, model, compiler, options, database, artifacts, keep)
        owner = Owner((config.user or "default") if user is _CONFIGURED else user, tenant)
        registry.check(config.compiler, config.options)  # a wrong option is an error now, not tonight
        embedding = resolve_embedder(embedder or config.embedder)
        resolve_gate(gate or config.gate)  # also before a bank is made
        if signer is None and config.signing_key is not None:
            signer = Signer.from_file(config.signing_key)
        bank = path if isinstance(path, Bank) else None
        self._opened_bank, self._created_engine = bank is None, None if engine else create_engine(config)
        bank = bank or Bank(config.home, database=config.database, artifacts=config.artifacts)
        loaded = None if model is None or isinstance(model, str) else model
        engines = Engines(config, engine or self._created_engine, loaded)
        compiling = CompileOptions(
            config.compiler,
            dict(config.options),
            admission or AdmissionConfig(),
            advisor,
            signer,
            config.keep,
            engines.embedded_answers,
        )
        self.context = Context(
            bank,
            owner,
            Router(bank, owner.name, lambda: engines.answering(owner.name), embedding, gate or config.gate),
            engines,
            compiling,
            CompileQueue(bank, lambda job: compile_job(self.context, job)),
            Usage(bank),
            observer or LogObserver(),
            clock or _utc_now,
        )
        self._is_view = False  # of another's bank, engine and queue

    def for_user(self, user: str | Owner) -> Memory:
        """The memories of another user in the same bank, in front of the same model.

        A name means a user of the same tenant; an `Owner` also names the tenant, and a namespace.
        """
        other = copy(self)
        other.context = self.context.of(user if isinstance(user, Owner) else Owner(user, self.tenant))
        other._is_view = True
        return other

    # -- whose memories, and with what ----------------------------------------------------------
    @property
    def bank(self) -> Bank:
        """The bank that holds them."""
        return self.context.bank

    @property
    def whose(self) -> Owner:
        """User, tenant and namespace."""
        return self.context.whose

    @property
    def owner(self) -> str:
        """The owner's name in the bank (see `memkit.bank.owners`)."""
        return self.context.owner

    @property
    def user(self) -> str:
        """The user's own name; "" for a tenant's own memories."""
        return self.whose.user

    @property
    def tenant(self) -> str:
        """The user's tenant; "" where there is none."""
        return self.whose.tenant

    @property
    def router(self) -> Router:
        """Decides, per question, what goes in front of the model."""
        return self.context.router

    @property
    def queue(self) -> CompileQueue:
        """The bank's compilations in the background."""
        return self.context.queue

    @property
    def observer(self) -> Observer:
        """Is told of answers and compilations."""
        return self.context.observer

    @property
    def engine(self) -> Engine:
        """The engine that answers. Its model is loaded when first needed; raises `ModelError`."""
        return self.context.engine

    @property
    def local(self) -> TransformersEngine:
        """The embedded engine, which compiles and tests artifacts whatever answers."""
        return self.context.embedded

    @property
    def model(self) -> str:
        """The model's name, as far as it is known before it is loaded."""
        return self.context.engines.model

    @property
    def compiler(self) -> str:
        """The compiler's name, or "auto"; see `chosen_compiler`."""
        return self.context.compiling.compiler

    @property
    def chosen_compiler(self) -> Choice:
        """The compiler that is used at once, and why; ``auto`` loads the model. Raises `ModelError`."""
        return self.context.choice()

    @property
    def options(self) -> Mapping[str, Any]:
        """The compiler's options."""
        return self.context.compiling.options

    # -- remember -------------------------------------------------------------------------------
    def remember(
        self,
        document: str | Document | Sequence[MessageLike],
        *,
        memory: str | None = None,
        when: When | None = None,
        key: str | None = None,
        title: str = "",
        wait: bool = False,
        compile: bool = True,
        always: bool = False,
        progress: Progress = silent,
    ) -> MemoryInfo:
        """Store a document, or append to a running memory. Questions are answered from its text at once.

        Args:
            document: A text, a `Document`, or messages (``{"role": ..., "content": ...}``), which become
                entries of a running memory.
            memory: The running memory's name; for messages the default is "profile".
            when: The date of the entries (see `memkit.text.dates.parse_time`; without a zone UTC); default:
                now.
            key: Makes repeated calls harmless: entries with a known key are not appended again.
            title: The document's title.
            wait: Compile before returning, instead of in the background or, where ``auto`` has to train, in
                the nightly run. Of a running memory new entries are read as text until it is compiled, by
                `compile`, ``wait`` or the nightly run.
            compile: Whether a document is compiled at all; False leaves it on its text.
            always: Compile what the advice (`objection`) would leave on its text: short, tabular or seldom
                asked memories.
            progress: Called after each step of a compilation with ``wait``.

        Remembering a document that looks the same again changes nothing, unless this memory names another
        compiler or other options than its artifact was made with: it is then compiled again. Raises
        `DocumentError` for a text that cannot be stored, `ConfigError` for one that is too long,
        `QuotaError`; with ``wait`` as `compile`.
        """
        return ingest.remember(
            self.context,
            document,
            memory=memory,
            when=when,
            key=key,
            title=title,
            wait=wait,
            compile=compile,
            always=always,
            progress=progress,
        )

    def objection(self, memory_id: str) -> str:
        """Why a memory is better left on its text than compiled, or "". Raises `NotFoundError`."""
        return ingest.objection(self.context, memory_id)

    def compile(self, memory_id: str, *, progress: Progress = silent) -> MemoryInfo:
        """Compile a memory from its source, and publish the artifact if it passes the admission tests.

        ``progress`` is called after each step. Raises `CompileError` where that is impossible,
        `VerificationError` where the tests refuse the artifact, `NotFoundError`, `BankBusyError`. The memory
        then stays on its text, or on the version it has, and its ``error`` says why.
        """
        return self.compile_with_cost(memory_id, progress=progress)[0]

    def compile_with_cost(
        self, memory_id: str, *, progress: Progress = silent
    ) -> tuple[MemoryInfo, Compiled]:
        """As `compile`, with what the compilation took: steps, seconds and FLOPs."""
        return compile_memory(self.context, memory_id, progress)

    def queue_age(self) -> float:
        """Seconds that the oldest compilation has waited in the background; 0 where none waits."""
        return self.queue.age()

    def wait(self) -> None:
        """Wait for the bank's background compilations, those left by earlier processes included."""
        self.queue.resume()
        self.queue.wait()

    # -- ask ------------------------------------------------------------------------------------
    def ask(
        self,
        question: str,
        *,
        history: Turns = (),
        max_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
        system: str = "",
        within: str | None = None,
        gate: GateChoice | None = None,
    ) -> Answer:
        """Answer a question from the best memory, or without one.

        Args:
            question: What is asked. It alone chooses the memory.
            history: Earlier questions with their answers as pairs or messages, the latest last. What does
                not fit half the model's window is left out, the oldest first.
            max_tokens: The longest answer, in tokens.
            temperature: 0 decodes greedily; above, answers are sampled.
            seed: Seed for sampling; the same seed gives the same answer.
            system: Instructions for the model. The router does not read them.
            within: The id of the only memory that may be used.
            gate: Decides in place of the memory's own gate, for this question.

        Raises `ContextTooLongError` when the question does not fit the model's window, `NotFoundError` where
        there is no memory ``within``, `ConfigError` for a value that is out of range.
        """
        sampling = Sampling(max_tokens, temperature, seed, system, within, gate)
        (answer,) = ask_many(self.context, [question], history, sampling)
        return answer

    def ask_many(
        self,
        questions: Sequence[str],
        *,
        max_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
        gate: GateChoice | None = None,
    ) -> builtins.list[Answer]:
        """Answer several questions, in order; those about one memory share a batch. See `ask`."""
        sampling = Sampling(max_tokens, temperature, seed, gate=gate)
        return ask_many(self.context, questions, (), sampling)

    def stream(
        self,
        question: str,
        *,
        history: Turns = (),
        max_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
        system: str = "",
        within: str | None = None,
        gate: GateChoice | None = None,
    ) -> Stream:
        """As `ask`, with the answer's text as it is written.

        Arguments that are out of range are errors at once; what else `ask` raises comes with the first piece.
        """
        sampling = Sampling(max_tokens, temperature, seed, system, within, gate)
        return Stream(stream(self.context, question, history, sampling))

    def recall(self, question: str, *, max_tokens: int = 64) -> RecalledText:
        """The passages from which a model of your own should answer, in at most ``max_tokens`` tokens."""
        return recall(self.context, question, max_tokens)

    def search(self, query: str, k: int = 4) -> builtins.list[SearchResult]:
        """The best passage of each of the ``k`` memories that fit a query best. No model is needed."""
        return search(self.context, query, k)

    # -- manage ---------------------------------------------------------------------------------
    def list_memories(self) -> builtins.list[MemoryInfo]:
        """All memories of this user, newest last."""
        return self.bank.list(self.owner)

    def get(self, memory_id: str) -> MemoryInfo:
        """One memory, by its id or the beginning of it. Raises `NotFoundError`."""
        return self.bank.get(self.owner, memory_id)

    def verify(
        self, memory_id: str, *, replay: bool = False, progress: Progress = silent
    ) -> VerificationReport:
        """Read an artifact again, check every byte and its fingerprint, and repeat its admission tests.

        ``replay`` also compiles it again from its source with its own settings, which gives the same bytes on
        the same machine; ``progress`` is called after each step of that. Raises `ArtifactError` for bytes
        that cannot be used, `VerificationError` when the tests would refuse the artifact today or the replay
        differs.
        """
        from memkit.pipeline.verify import verify

        with self.bank.artifact(self.owner, memory_id) as artifact:
            source = self.bank.source(self.owner, memory_id)
            made_by = artifact.manifest.compiler
            admission = usual_test(self.context.compiling.admission, self.local.fingerprint, made_by)
            return verify(artifact, source, self.local, admission, replay=replay, progress=progress)

    def forget(
        self, memory_id: str, *, spans: Sequence[Span] | None = None, compile: bool = True
    ) -> builtins.list[Receipt]:
        """Forget one memory, by its whole id: text, vectors, artifacts and what an engine has attached.

        ``spans`` forget only those characters of a document, or the entries they touch of a running memory,
        with every version that saw them. The rest is compiled again in the background unless ``compile`` is
        false, and the receipt has its id. Raises `NotFoundError`, and `ConfigError` for anything but a whole
        id.
        """
        from memkit.pipeline.forget import forget

        return forget(self.context, memory_id, spans, compile)

    def forget_matching(self, memory_id: str, text: str, *, compile: bool = True) -> builtins.list[Receipt]:
        """Forget a text, in any spelling that looks the same, wherever a memory holds it: in its source, its
        title, its speakers and keys, with every version that saw it.

        A memory that is named after the text, or an item of a store that holds it, is forgotten as a whole.
        Raises `NotFoundError` where the memory does not hold it.
        """
        from memkit.pipeline.forget import forget_matching

        return forget_matching(self.context, memory_id, text, compile)

    def forget_all(self) -> builtins.list[Receipt]:
        """Forget everything that this user has, the namespaces of stores below them included."""
        from memkit.pipeline.forget import forget_all

        return forget_all(self.context)

    def forget_and_check(
        self,
        memory_id: str | None = None,
        *,
        spans: Sequence[Span] = (),
        matching: str | None = None,
        questions: int = 16,
    ) -> ForgetReport:
        """Forget, then ask again what the forgotten text answered.

        As `forget`; with ``matching`` as `forget_matching`; without a ``memory_id`` as `forget_all`. The
        model writes up to ``questions`` questions about what is forgotten. Those that it answers the same way
        without any memory are left out, as no bank can forget what the model knows anyway.
        """
        from memkit.pipeline.forget_check import forget_and_check

        return forget_and_check(self.context, memory_id, spans, questions, matching=matching)

    def close(self) -> None:
        """Finish the compilation that runs, leave waiting ones for the next process, and close the bank and
        the engine if this memory opened them. A memory from `for_user` has nothing of its own to close."""
        if self._is_view:
            return
        self.queue.stop()
        self.context.usage.flush()
        if self._created_engine is not None:
            self._created_engine.close()
        if self._opened_bank:
            self.bank.close()

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- former names ---------------------------------------------------------------------------
    @deprecated("Memory.of is now Memory.for_user")
    def of(self, user: str | Owner) -> Memory:
        """See `for_user`."""
        return self.for_user(user)

    @deprecated("Memory.show is now Memory.get")
    def show(self, memory_id: str) -> MemoryInfo:
        """See `get`."""
        return self.get(memory_id)

    @deprecated("Memory.list is now Memory.list_memories")
    def list(self) -> builtins.list[MemoryInfo]:
        """See `list_memories`."""
        return self.list_memories()

    @deprecated("Memory.compiled is now Memory.compile_with_cost")
    def compiled(self, memory_id: str, *, progress: Progress = silent) -> tuple[MemoryInfo, Compiled]:
        """See `compile_with_cost`."""
        return self.compile_with_cost(memory_id, progress=progress)


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _resolved(
    config: Config | None,
    path: str | Path | Bank | None,
    model: str | LoadedModel | None,
    compiler: str | None,
    options: Mapping[str, Any] | None,
    database: str | None,
    artifacts: str | None,
    keep: int | None,
) -> Config:
    """The configuration with what was given as arguments."""
    if config is not None and not isinstance(config, Config):
        raise ConfigError(f"config is a memkit.config.Config, got {config!r:.80}; see Config.load")
    shared = {"database": database, "artifacts": artifacts}
    arguments: dict[str, Any] = {"compiler": compiler, "options": options, "keep": keep, **shared}
    arguments |= {
        "model": model if isinstance(model, str) else None,
        "home": path.path if isinstance(path, Bank) else path,
    }
    given = {name: value for name, value in arguments.items() if value is not None}
    if config is None and path is not None:  # a folder alone names a bank of this machine
        given |= shared
    return replace(config or Config.load(), **given)


def default_home() -> Path:
    """The bank's folder where none is named: that of `memkit.config.Config.load`."""
    return Config.load().home


__all__ = ["MAX_CHARACTERS", "Answer", "Memory", "MessageLike", "Part", "Stream", "Trace", "default_home"]
