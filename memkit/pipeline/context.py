"""The context of the pipeline's stages: a bank, a model and the owner they work for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from memkit.bank import Bank
from memkit.bank.owners import Owner
from memkit.compiler_choice import AUTO, Choice, choose
from memkit.config import Config
from memkit.engine.base import Engine
from memkit.engine.factory import create_local_engine
from memkit.observability.events import Observer
from memkit.pipeline.admission import AdmissionConfig
from memkit.pipeline.compile_queue import CompileQueue
from memkit.pipeline.usage import Usage
from memkit.router.router import Router

if TYPE_CHECKING:  # these import torch, which only compiling and answering need
    from memkit.artifact.signing import Signer
    from memkit.engine.transformers.engine import TransformersEngine
    from memkit.models.loading import LoadedModel
    from memkit.recompile.advice import AdvisorConfig


class Engines:
    """The engine that answers and the embedded engine that compiles; the model is loaded when first needed.

    ``given``, such as an SGLang client, answers questions. If it is None, the embedded engine does.
    Artifacts are always compiled and tested by the embedded engine, which runs ``model``, or loads
    ``config.model`` if that is None.
    """

    def __init__(self, config: Config, given: Engine | None = None, model: LoadedModel | None = None) -> None:
        self._config, self._given, self._model = config, given, model
        self._embedded = _as_embedded(given)
        self._loading = threading.Lock()

    def answering(self, owner: str) -> Engine:
        """The engine that answers for ``owner``. Raises `ModelError` if its model cannot be loaded."""
        return self.embedded if self._given is None else self._given.for_tenant(owner)

    @property
    def embedded(self) -> TransformersEngine:
        """The engine in this process. Raises `ModelError` for a model that cannot be loaded."""
        with self._loading:  # several threads may need it first
            if self._embedded is None:
                self._embedded = self._load()
            return self._embedded

    def _load(self) -> TransformersEngine:
        if self._model is None:
            return create_local_engine(self._config)
        from memkit.engine.transformers.engine import TransformersEngine

        return TransformersEngine(self._model)

    @property
    def embedded_answers(self) -> bool:
        """Whether the engine in this process answers."""
        return self._given is None or _as_embedded(self._given) is not None

    @property
    def embedded_loaded(self) -> bool:
        """Whether the model that compiles is loaded."""
        return self._embedded is not None

    @property
    def loaded(self) -> Engine | None:
        """The engine that answers, None if its model is not loaded yet."""
        return self._given or self._embedded

    @property
    def model(self) -> str:
        """The model's name; does not load it."""
        if self._given is not None:
            return self._given.model
        return self._config.model if self._model is None else self._model.name


@dataclass(frozen=True)
class CompileOptions:
    """How artifacts are compiled.

    ``compiler`` is a name, or ``auto``, and ``options`` are its settings. ``admission`` configures the tests
    that an artifact must pass. ``advisor`` says which memories are not worth compiling and stay on their
    text. ``signer`` signs artifacts. ``keep`` is the number of versions that a background compilation keeps;
    None means all. ``embedded`` says whether the embedded engine answers; another reads fewer kinds of
    artifacts.
    """

    compiler: str
    options: Mapping[str, Any]
    admission: AdmissionConfig
    advisor: AdvisorConfig | None = None
    signer: Signer | None = None
    keep: int | None = None
    embedded: bool = True


@dataclass(frozen=True)
class Context:
    """One owner's view of a bank and a model; ``whose`` is the owner for whom everything is read and written.

    ``clock`` returns the current time, with its time zone.
    """

    bank: Bank
    whose: Owner
    router: Router
    engines: Engines
    compiling: CompileOptions
    queue: CompileQueue
    usage: Usage
    observer: Observer
    clock: Callable[[], datetime]

    def of(self, owner: Owner) -> Context:
        """The same bank and model for another owner."""
        engines = self.engines
        router = self.router.for_tenant(owner.name, lambda: engines.answering(owner.name))
        return replace(self, whose=owner, router=router)

    def choice(self) -> Choice:
        """The compiler that is used. Raises `ModelError` if ``auto`` needs a model that cannot be loaded."""
        compiling = self.compiling
        if compiling.compiler != AUTO:
            return Choice(compiling.compiler)
        return choose(compiling.compiler, self.embedded.base, compiling.embedded)

    def known_choice(self) -> Choice | None:
        """As `choice`, but None where that would load the model."""
        loaded = self.compiling.compiler != AUTO or self.engines.embedded_loaded
        return self.choice() if loaded else None

    def compiled_by(self, compiler: str) -> Context:
        """The same, with this compiler in place of ``auto``, and the options that it is given then."""
        options = self.compiling.options
        if self.compiling.compiler == AUTO:
            options = self.choice().options(compiler)
        return replace(self, compiling=replace(self.compiling, compiler=compiler, options=options))

    @property
    def owner(self) -> str:
        """The owner's name in the bank (see `memkit.bank.owners`)."""
        return self.whose.name

    @property
    def engine(self) -> Engine:
        """The engine that answers. Raises `ModelError` if its model cannot be loaded."""
        return self.engines.answering(self.owner)

    @property
    def embedded(self) -> TransformersEngine:
        """The engine that compiles and tests artifacts. Raises `ModelError` as `engine` does."""
        return self.engines.embedded


def _as_embedded(engine: Engine | None) -> TransformersEngine | None:
    """The engine if it is an embedded one, which can also compile; otherwise None."""
    if engine is None:
        return None
    from memkit.engine.transformers.engine import TransformersEngine

    return engine if isinstance(engine, TransformersEngine) else None
