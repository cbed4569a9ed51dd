"""What the routes share: services of the server, and the context of a request."""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Header, Request, Response, Security
from fastapi.security import HTTPBearer

from memkit.engine.factory import create_sglang_engine
from memkit.memory import Memory
from memkit.observability.events import LogObserver, Observers
from memkit.observability.prometheus import Metrics
from memkit.server.config import ServerConfig
from memkit.server.engine import AnsweringName, EngineMonitor
from memkit.server.identity import Caller, header_text
from memkit.server.jobs import Jobs
from memkit.server.memory_pool import MemoryPool
from memkit.server.rate_limits import RateLimiter, authenticate

if TYPE_CHECKING:
    from memkit.engine.sglang.engine import SGLangEngine
    from memkit.engine.transformers.engine import TransformersEngine

BEARER = HTTPBearer(auto_error=False, description="An API key: `memkit keys create --tenant NAME`.")
_USER = "A user of the key's tenant, percent-encoded; without it the tenant's own memories are meant."


class Services:
    """Everything behind the routes of one server: bank, engine, memories, queue, rate limits and metrics.

    With an ``engine`` no other one is created. Raises `ConfigError` for settings that do not fit together.
    """

    def __init__(self, config: ServerConfig, engine: TransformersEngine | None = None) -> None:
        self.config = config
        self.started = int(time.time())
        self.metrics = Metrics()
        self._sglang: SGLangEngine | None = None
        if engine is None and config.upstream is None and config.engine == "sglang":
            self._sglang = create_sglang_engine(config)
        self.root = Memory(
            config=replace(config, engine="transformers"),
            engine=engine or self._sglang,
            observer=Observers(LogObserver(), self.metrics),
        )
        self.bank = self.root.bank
        local = (lambda: self.root.local) if config.compiles else None
        self.engine = EngineMonitor(lambda: self.root.engine, self._sglang, local)
        self.jobs = Jobs(self.root, config.queue)
        self.metrics.watch(self.jobs.age)
        self.rates = RateLimiter(config.rate)
        self.pool = MemoryPool(self.root, config.users)

    @property
    def engine_name(self) -> AnsweringName:
        """Which engine answers."""
        if self.config.upstream is not None:
            return "upstream"
        return "transformers" if self._sglang is None else "sglang"

    def load(self) -> None:
        """Load the model before the first question, and check the SGLang servers.

        Raises `EngineError` for servers of another model, `ModelError` for a model that cannot be loaded.
        """
        if self.config.upstream is None:
            self.engine.start()

    def resume(self) -> None:
        """Continue the compilations that waited when the last server ended."""
        if self.config.compiles:
            self.jobs.resume()

    def close(self) -> None:
        """Stop the current compilation, and close the bank and the engine's connections."""
        self.jobs.stop()
        self.root.close()
        if self._sglang is not None:
            self._sglang.close()

    def may_see_metrics(self, authorization: str) -> bool:
        """Whether a header ``Authorization`` carries the token for the metrics."""
        token = self.config.metrics_token
        given = authorization.removeprefix("Bearer ").encode()
        return token is not None and hmac.compare_digest(given, token.encode())


@dataclass(frozen=True)
class RequestContext:
    """The caller of one request, with the server's services."""

    services: Services
    caller: Caller

    @property
    def owner(self) -> str:
        """The caller's name in the bank."""
        return self.caller.owner

    @contextmanager
    def memory(self) -> Iterator[Memory]:
        """The caller's memory."""
        with self.services.pool.of(self.owner) as memory:
            yield memory

    def of(self, user: str | None) -> RequestContext:
        """The context of a user that the request's body names, unless the header has named one."""
        if not user or self.caller.user:
            return self
        return RequestContext(self.services, replace(self.caller, user=user))


def services_of(request: Request) -> Services:
    """The server's services."""
    services: Services = request.app.state.services
    return services


def request_context(
    request: Request,
    response: Response,
    _: Annotated[object, Security(BEARER)],
    x_memkit_user: Annotated[str, Header(description=_USER)] = "",
) -> RequestContext:
    """The caller, by API key and ``X-Memkit-User``: 401 without a valid key, 429 for too many requests."""
    services = services_of(request)
    key, counted = authenticate(services.bank, request.headers.get("authorization", ""))
    response.headers.update(services.rates.count(counted))
    return RequestContext(services, Caller(key.tenant, header_text(x_memkit_user), key.scope))


InContext = Annotated[RequestContext, Depends(request_context)]


def with_headers(own: Response, injected: Response) -> Response:
    """A route's own response, with the ``X-`` headers that dependencies set on the ``injected`` one."""
    for name, value in injected.headers.items():
        if name.lower().startswith("x-"):
            own.headers.setdefault(name, value)
    return own
