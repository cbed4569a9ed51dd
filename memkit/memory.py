"""The façade: remember, ask, forget. The whole path of a document and of a question."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memkit import registry
from memkit.answer import Answer, Part, Trace
from memkit.artifact.signing import Signer
from memkit.bank import Bank, MemoryInfo, Receipt
from memkit.bank.owners import Owner
from memkit.compilers.base import Compiled, Progress, Step, silent
from memkit.config import Config, expanded
from memkit.document import Document, Span
from memkit.engine.base import Engine
from memkit.errors import ConfigError
from memkit.observability.events import LogObserver, Observer
from memkit.pipeline import ingest
from memkit.pipeline.admission import AdmissionConfig
from memkit.pipeline.answer import RecalledText, Sampling, SearchResult, ask_many, recall, search, stream
from memkit.pipeline.compile_queue import CompileQueue, Job
from memkit.pipeline.ingest import MAX_CHARACTERS
from memkit.pipeline.usage import Usage
from memkit.router.embedders import Embedder, resolve_embedder
from memkit.router.gate import GateConfig, GateName, resolve_gate
from memkit.router.router import Router
from memkit.text.messages import MessageLike, Turns, When
from memkit.validation import check_arguments

if TYPE_CHECKING:  # they bring torch, which only compiling and answering need
    from memkit.engine.transformers.engine import TransformersEngine
    from memkit.models.loading import LoadedModel
    from memkit.pipeline.verify import VerificationReport
    from memkit.recompile.advice import AdvisorConfig


class Memory:
    """One user's memories in one bank, in front of one frozen model.

    ``path`` is the bank, or its folder (default: ``MEMKIT_HOME``, else the platform's data folder);
    ``model`` a name that `memkit.models.loading.load` knows (default: ``MEMKIT_MODEL``, else nano).
    Everything is read and written in the name of ``user`` alone: one of a server's ``tenant``, or of none.
    ``embedder`` finds memories: "lexical" by words, "sentence" by meaning, "hybrid" by both (default:
    ``MEMKIT_EMBEDDER``, else lexical); ``gate`` decides among them: "auto", "rule", "entropy" or "learned".
    ``engine`` answers (default: one in this process, which in any case compiles). Artifacts are signed with
    ``signer`` (default: the key in the file that ``MEMKIT_SIGNING_KEY`` names, if any). ``advisor`` tells
    which memories are better left on their text. Of what is compiled in the background ``keep`` versions
    stay (default: all). ``clock`` tells the time, ``observer`` is told what happens (default: log records).
    ``database`` and ``artifacts`` are those of a bank that machines share (see `memkit.bank.Bank`).
    """

    def __init__(
        self,
        path: str | Path | Bank | None = None,
        model: str | LoadedModel | None = None,
        user: str = "default",
        *,
        compiler: str = "lcc",
        options: Mapping[str, Any] | None = None,
        engine: Engine | None = None,
        embedder: str | Embedder | None = None,
        gate: GateConfig | GateName | None = None,
        admission: AdmissionConfig | None = None,
        advisor: AdvisorConfig | None = None,
        signer: Signer | None = None,
        clock: Callable[[], datetime] | None = None,
        observer: Observer | None = None,
        database: str | None = None,
        artifacts: str | None = None,
        tenant: str = "",
        keep: int | None = None,
    ) -> None:
        check_arguments(path, model, compiler, options, engine, keep, clock)
        self.whose = Owner(user, tenant)
        self.compiler, self.options, self.keep = compiler, dict(options or {}), keep
        registry.check(compiler, self.options)  # a wrong option is an error now, not tonight
        config = Config.load()
        gate, embedding = resolve_gate(gate), resolve_embedder(embedder or config.embedder)
        self.signer = signer or (Signer.from_file(config.signing_key) if config.signing_key else None)
        if isinstance(path, Bank):
            self.bank = path
        elif path is not None:
            self.bank = Bank(expanded(path), database=database, artifacts=artifacts)
        else:
            self.bank = Bank(config.home, database=config.database, artifacts=config.artifacts)
        self._clock = clock or _utc_now
        self.observer = observer or LogObserver()
        self._model = model or config.model
        self._engine, self._local = engine, _local(engine)
        self.router = Router(self.bank, self.owner, lambda: self.engine, embedding, gate)
        self.admission, self.advisor = admission or AdmissionConfig(), advisor
        self._usage = Usage(self.bank)
        self._root: Memory | None = None  # whose bank, engine and queue these are, where they are another's
        self._closes = not isinstance(path, Bank)
        self.queue = CompileQueue(self.bank, self._compile_job)

    def of(self, user: str | Owner) -> Memory:
        """The memories of another user in the same bank, in front of the same model.

        A name means a user of the same tenant; an `Owner` names the tenant, and a namespace, too.
        """
        other = copy(self)
        other.whose = user if isinstance(user, Owner) else Owner(user, self.tenant)
        other._root = self._root or self
        other.router = self.router.of(other.owner, lambda: other.engine)
        return other

    @property
    def owner(self) -> str:
        """What the bank calls those whose memories these are (see `memkit.bank.owners`)."""
        return self.whose.name

    @property
    def user(self) -> str:
        """The user's own name; "" of a tenant's own memories."""
        return self.whose.user

    @property
    def tenant(self) -> str:
        """The tenant that the user is one of; "" where there is none."""
        return self.whose.tenant

    @property
    def engine(self) -> Engine:
        """The engine that answers, in this user's name; loading the model waits until it is needed."""
        shared = (self._root or self)._engine
        return self.local if shared is None else shared.for_tenant(self.owner)

    @property
    def ready(self) -> Engine | None:
        """The engine that answers, if there is one yet."""
        return (self._root or self)._engine or (self._root or self)._local

    @property
    def local(self) -> TransformersEngine:
        """The engine in this process, which compiles and tests artifacts, whatever answers."""
        if self._root is not None:
            return self._root.local
        if self._local is None:
            from memkit.engine.transformers.engine import TransformersEngine

            self._local = TransformersEngine(self._model)
        return self._local

    @property
    def model(self) -> str:
        """The model's name, as far as it is known before it is loaded."""
        if self._root is not None:
            return self._root.model
        if self._engine is not None:
            return self._engine.model
        return self._model if isinstance(self._model, str) else self._model.name

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
        """Store a document, or add to a running memory; it can be asked about at once, from its text.

        A text with a ``memory``'s name, or messages (``{"role", "content"}``, of the memory "profile" if
        none is named), become dated entries of that running memory: said at ``when`` (see
        `memkit.text.dates.parse_time`; without a zone it is in UTC), or now. A ``key`` makes a repeated call
        harmless. Its artifact answers for what was compiled, by `compile` or ``wait``; newer entries are read
        as text.

        Compilation of a document runs in the background, or before returning with ``wait``;
        ``compile=False`` leaves it on its text, and so does the advice for what is short, tabular or seldom
        asked (`objection`), unless ``always``. Remembering what looks the same again changes nothing.
        Raises `DocumentError` for a text that cannot be remembered, `ConfigError` for one that is too long.
        """
        if memory is not None or not isinstance(document, str | Document):
            if title:
                raise ConfigError("a running memory has a name instead of a title")
            name = "profile" if memory is None else memory
            info = ingest.append_entries(self, name, document, when, key, self._clock())
        elif when is not None or key is not None:
            raise ConfigError(
                "`when` and `key` belong to entries of a running memory: name one with `memory`"
            )
        else:
            info = ingest.add_document(self, document, title)
            if not compile or (info.status == "compiled" and not self.router.usable(info)):
                return info
        if wait:
            left = not always and self.objection(info.id)
            return info if left else self.compile(info.id, progress=progress)
        if not info.running:
            self.queue.compile(self.owner, info.id, always=always)
        return info

    def objection(self, memory_id: str) -> str:
        """Why a memory is better left on its text than compiled, or "": what every door goes by."""
        from memkit.recompile.advice import AdvisorConfig, objection

        return objection(self, self.bank.get(self.owner, memory_id), self.advisor or AdvisorConfig())

    def compile(self, memory_id: str, *, progress: Progress = silent) -> MemoryInfo:
        """Compile a memory from its source and publish the artifact, if the admission gate lets it pass.

        Raises `CompileError` when that is impossible, `VerificationError` when the gate refuses the
        artifact; the memory then stays on its text, and its ``error`` says why.
        """
        return self.compiled(memory_id, progress=progress)[0]

    def compiled(self, memory_id: str, *, progress: Progress = silent) -> tuple[MemoryInfo, Compiled]:
        """As `compile`, and what the compilation cost."""
        from memkit.pipeline.compile import compile_memory

        info = self.bank.get(self.owner, memory_id)
        with self.bank.leases.take(self.owner, info.id) as lease:

            def step(done: Step) -> None:
                lease.renew()
                progress(done)

            return compile_memory(self, info, step)

    def _compile_job(self, job: Job) -> None:
        from memkit.recompile.run import compile_job

        compile_job(self, job)

    def queue_age(self) -> float:
        """Seconds that the oldest compilation has waited in the background; 0 where none does."""
        return self.queue.age()

    def wait(self) -> None:
        """Wait until every background compilation of the bank has ended, those left from before too."""
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
    ) -> Answer:
        """Answer a question from the best memory, or without one; or from no other than the one ``within``.

        ``history`` holds earlier questions with their answers, the latest last; what does not fit half the
        model's window is left out, the oldest first. The memory is chosen by the question alone, whatever
        the instructions ``system`` say. Raises `ContextTooLongError` when the question itself does not fit
        the model, `NotFoundError` where there is no memory ``within``.
        """
        how = Sampling(max_tokens, temperature, seed, system, within)
        (answer,) = ask_many(self, [question], history, how)
        return answer

    def ask_many(
        self, questions: Sequence[str], *, max_tokens: int = 64, temperature: float = 0.0, seed: int = 0
    ) -> builtins.list[Answer]:
        """Answer several questions, in order; those about one memory are read together."""
        return ask_many(self, questions, (), Sampling(max_tokens, temperature, seed))

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
    ) -> Iterator[str | Answer]:
        """The pieces of an answer as they come, then the `Answer` that they make up, with its trace.

        Closing the iterator ends the work. Raises as `ask`, when the first piece is asked for.
        """
        how = Sampling(max_tokens, temperature, seed, system, within)
        return stream(self, question, history, how)

    def recall(self, question: str, *, max_tokens: int = 64) -> RecalledText:
        """The passages that an answer of ``max_tokens`` should be written from, for another model to read."""
        return recall(self, question, max_tokens)

    def search(self, query: str, k: int = 4) -> builtins.list[SearchResult]:
        """The best passage of each of the ``k`` memories that fit a query best; no model is asked."""
        return search(self, query, k)

    def answered(self, answer: Answer, started: float) -> None:
        """Count an answer that was given, and tell the observer."""
        if answer.trace.memory_id is not None and answer.route != "none":
            self._usage.note(self.owner, answer.trace.memory_id)
        self.observer.answered(self.owner, answer, started)

    # -- manage ---------------------------------------------------------------------------------
    def list(self) -> list[MemoryInfo]:
        """All memories of this user, newest last."""
        return self.bank.list(self.owner)

    def show(self, memory_id: str) -> MemoryInfo:
        """One memory. Raises `NotFoundError`."""
        return self.bank.get(self.owner, memory_id)

    def verify(
        self, memory_id: str, *, replay: bool = False, progress: Progress = silent
    ) -> VerificationReport:
        """Re-read an artifact, check every byte and its fingerprint, and test it again.

        ``replay`` also compiles it again from its source, with its own settings; on the same machine
        that gives the same bytes. Raises `ArtifactError` for bytes that cannot be used, `VerificationError`
        when the gate would refuse the artifact today, or the replay differs.
        """
        from memkit.pipeline.verify import verify

        with self.bank.artifact(self.owner, memory_id) as artifact:
            source = self.bank.source(self.owner, memory_id)
            return verify(artifact, source, self.local, self.admission, replay=replay, progress=progress)

    def forget(
        self, memory_id: str, *, spans: Sequence[Span] | None = None, compile: bool = True
    ) -> builtins.list[Receipt]:
        """Forget one memory, by its whole id: text, vectors, artifacts, attached handles.

        With ``spans`` only those characters of the memory's text, or the entries they touch of a running
        one, with every version that saw them; what remains is compiled anew in the background, unless
        ``compile`` is false, and the receipt tells its id. `memkit.pipeline.forget.forget_and_check` also
        asks whether it is forgotten. Raises `NotFoundError` when there is no such memory, `ConfigError` for
        what is no id.
        """
        from memkit.pipeline import forget as forgetting

        return forgetting.forget(self, memory_id, spans, compile)

    def forget_matching(self, memory_id: str, text: str, *, compile: bool = True) -> builtins.list[Receipt]:
        """Forget a text, and what looks like it, wherever a memory holds it: in what it tells, in its title,
        in speakers and keys, with every version that saw it.

        What has it for a name, or is an item of a store that holds it, is forgotten altogether. Raises
        `NotFoundError` where the memory does not hold it.
        """
        from memkit.pipeline import forget as forgetting

        return forgetting.forget_matching(self, memory_id, text, compile)

    def forget_all(self) -> builtins.list[Receipt]:
        """Forget everything that this user has, with what stores keep in namespaces beneath them."""
        from memkit.pipeline import forget as forgetting

        return forgetting.forget_all(self)

    def close(self) -> None:
        """End the compilation under way, leave what waits for the next time, and close the bank if it was
        opened here. What `of` gave has nothing of its own to close."""
        if self._root is not None:
            return
        self.queue.stop()
        self._usage.flush()
        if self._closes:
            self.bank.close()

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _local(engine: Engine | None) -> TransformersEngine | None:
    """The engine, if it is one of this process, which also compiles."""
    if engine is None:
        return None
    from memkit.engine.transformers.engine import TransformersEngine

    return engine if isinstance(engine, TransformersEngine) else None


def default_home() -> Path:
    """The bank's folder where none is named: that of `memkit.config.Config.load`."""
    return Config.load().home


__all__ = ["MAX_CHARACTERS", "Answer", "Memory", "MessageLike", "Part", "Trace", "default_home"]
