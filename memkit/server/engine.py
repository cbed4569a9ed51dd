"""The engine that answers for a server: embedded, SGLang servers, or an upstream."""

from __future__ import annotations

import logging
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

    ``engine`` gives the engine that answers; the embedded one then loads its model. If that is ``sglang``,
    ``local`` gives the embedded engine that compiles beside it, or is None if nothing is compiled: artifacts
    of another model than the one that answers would be of no use.
    """

    def __init__(
        self,
        engine: Callable[[], Engine],
        sglang: SGLangEngine | None = None,
        local: Callable[[], TransformersEngine] | None = None,
    ) -> None:
        self._engine, self._sglang, self._local = engine, sglang, local
        self._info: EngineInfo | None = None

    def info(self) -> EngineInfo:
        """The model that answers. Raises `EngineError` if no SGLang server can be reached or used."""
        if self._info is None:
            self._info = self._ask()
        return self._info

    def available(self) -> EngineInfo | None:
        """As `info`, or None if the engine cannot answer now; the log says why."""
        try:
            if self._sglang is not None and (problems := self._unreachable(self._sglang)):
                raise EngineError("; ".join(problems))
            return self.info()
        except EngineError as error:
            log.warning("the engine cannot answer: %s", error)
            return None

    def start(self) -> None:
        """Load what the first question needs.

        SGLang servers that are down are no error, as they may start later. Raises `EngineError` for servers
        of another model, `ModelError` for a model that cannot be loaded.
        """
        if self._sglang is not None:
            if self._local is not None:
                self._local()
            if problems := self._unreachable(self._sglang):
                log.warning("%s; memories can be stored, questions are refused", "; ".join(problems))
                return
        self.info()

    def _unreachable(self, sglang: SGLangEngine) -> list[str]:
        """Why no server answers; empty if one does. Raises `EngineError` for unfit servers."""
        from memkit.engine.sglang.workers import WorkerError

        problems = list[str]()
        for url in sglang.config.urls:
            try:
                sglang.server(url)
            except EngineError as error:
                if not isinstance(error.__cause__, WorkerError):
                    raise
                problems.append(str(error))
            else:
                return []
        return problems

    def _ask(self) -> EngineInfo:
        engine = self._engine()
        info = EngineInfo(engine.fingerprint, engine.window)
        if self._sglang is not None and self._local is not None:
            local = self._local()
            if local.fingerprint != info.fingerprint:
                raise EngineError(
                    f"the SGLang servers run the model {info.fingerprint[:12]}, this process compiles for "
                    f"{local.fingerprint[:12]} ({local.model}): serve the same model in the same dtype"
                )
        return info
