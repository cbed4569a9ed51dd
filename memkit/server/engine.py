"""The engine that answers for a server: the one in this process, SGLang servers, or an upstream's."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from memkit.engine.base import Engine
from memkit.errors import EngineError

if TYPE_CHECKING:
    from memkit.engine.sglang.engine import SGLangEngine
    from memkit.engine.transformers.engine import TransformersEngine

log = logging.getLogger("memkit.server")
AnsweringName: TypeAlias = Literal["transformers", "sglang", "upstream"]


@dataclass(frozen=True)
class EngineInfo:
    """The ``fingerprint`` of the model that answers, and its ``window`` in tokens."""

    fingerprint: str
    window: int


class EngineMonitor:
    """What the engine says of its model, asked once it can be reached and kept from then on.

    ``engine`` gives the engine in this process, which loads its model, unless ``sglang`` answers. ``local``
    gives the engine that compiles in this process beside ``sglang``, or is None where nothing is compiled:
    artifacts of another model than the one that answers would be of no use.
    """

    def __init__(
        self,
        engine: Callable[[], Engine],
        sglang: SGLangEngine | None = None,
        local: Callable[[], TransformersEngine] | None = None,
    ) -> None:
        self._engine, self._sglang, self._local = engine, sglang, local
        self._lock = threading.Lock()
        self._info: EngineInfo | None = None

    def info(self) -> EngineInfo:
        """The model that answers. Raises `EngineError` where no SGLang server can be reached or used."""
        if self._info is None:
            with self._lock:
                self._info = self._info or self._ask()
        return self._info

    def known(self) -> EngineInfo | None:
        """As `info`, or None where the engine cannot answer now; the log says why."""
        try:
            return self.info()
        except EngineError as error:
            log.warning("the engine cannot answer: %s", error)
            return None

    def start(self) -> None:
        """Load what is needed before the first question.

        A server that is down may come up later, which is not an error. Raises `EngineError` for SGLang
        servers of another model, `ModelError` for a model that cannot be loaded.
        """
        if self._sglang is None:
            self.info()
            return
        if self._local is not None:
            self._local()
        from memkit.engine.sglang.workers import WorkerError

        down = list[str]()
        for url in self._sglang.config.urls:
            try:
                self._sglang.server(url)
            except EngineError as error:
                if not isinstance(error.__cause__, WorkerError):
                    raise
                down.append(str(error))
        if len(down) < len(self._sglang.config.urls):
            self.info()
        for problem in down:
            log.warning("%s; questions are refused until a server answers, memories can be kept", problem)

    def _ask(self) -> EngineInfo:
        engine = self._engine()
        info = EngineInfo(engine.fingerprint, engine.window)
        if self._sglang is not None and self._local is not None:
            compiles = self._local()
            if compiles.fingerprint != info.fingerprint:
                raise EngineError(
                    f"the SGLang servers run the model {info.fingerprint[:12]}, this process compiles for "
                    f"{compiles.fingerprint[:12]} ({compiles.model}): serve the same model in the same dtype"
                )
        return info
