"""Send requests to one of several SGLang servers: affinity, limits, retries and failover."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from memkit.errors import EngineError, MissingExtraError, install_line

RETRIED = (500, 502, 503, 504)  # status codes for which another attempt may succeed
PAUSE = 0.1  # seconds before the second attempt at the same servers; doubles
T = TypeVar("T")
DOWN = 2.0  # seconds for which a server that did not respond is avoided


@dataclass(frozen=True)
class SGLangConfig:
    """The servers' URLs and limits. Raises `ValueError` for invalid values."""

    urls: tuple[str, ...]
    in_flight: int = 32  # concurrent requests to one server
    waiting: int = 256  # further requests that may wait for their turn; more are refused
    wait: float = 60.0  # seconds that a request waits for its turn
    timeout: float = 120.0  # seconds for an answer
    attempts: int = 6  # for a request that fails, in total
    top: int = 256  # most likely tokens from which the entropy is estimated
    api_key: str = field(default="", repr=False)  # SGLang's

    def __post_init__(self) -> None:
        object.__setattr__(self, "urls", tuple(url.rstrip("/") for url in self.urls))
        if not self.urls or len(set(self.urls)) != len(self.urls):
            raise ValueError(f"urls must name one or more different servers, got {list(self.urls)}")
        if wrong := [url for url in self.urls if not url.startswith(("http://", "https://"))]:
            raise ValueError(f"a server's URL starts with http:// or https://, got {wrong[0]!r:.80}")
        for name in ("in_flight", "attempts", "top"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("waiting", "wait"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.timeout <= 0:
            raise ValueError(f"timeout must be positive, got {self.timeout}")


@dataclass
class Worker:
    """The state of one server."""

    url: str
    active: int = 0  # requests
    down_until: float = 0.0  # on the monotonic clock
    info: Mapping[str, Any] | None = None  # its description of itself; None: not known


class WorkerError(Exception):
    """A server failed; another one may succeed."""


class Workers:
    """Sends requests to servers. ``check`` returns a server's description, or raises if it must not be used.

    Thread-safe. Raises `MissingExtraError` without httpx.
    """

    def __init__(self, config: SGLangConfig, check: Callable[[Worker], Mapping[str, Any]]) -> None:
        try:
            import httpx
        except ImportError as error:
            raise MissingExtraError("httpx", install_line("sglang")) from error
        headers = {"Authorization": f"Bearer {config.api_key}"} if config.api_key else {}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=4 * config.in_flight)
        timeout = httpx.Timeout(config.timeout, connect=min(5.0, config.timeout))
        self._client = httpx.Client(headers=headers, limits=limits, timeout=timeout)
        self._broken: tuple[type[Exception], ...] = (httpx.TransportError,)
        self._config, self._check = config, check
        self.all = [Worker(url) for url in config.urls]
        self._free = threading.Condition()
        self._waiting = 0

    def close(self) -> None:
        self._client.close()

    # -- one server -----------------------------------------------------------------------------
    def request(
        self,
        worker: Worker,
        path: str,
        payload: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """A server's JSON response to a GET, or with a ``payload`` to a POST.

        Raises `WorkerError` when it fails, `EngineError` when it refuses.
        """
        options: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
        try:
            if payload is None:
                answer = self._client.get(worker.url + path, **options)
            else:
                answer = self._client.post(worker.url + path, json=payload, **options)
        except self._broken as error:
            raise self._lost(worker, error) from error
        if answer.status_code >= 400:
            raise self._refused(worker, answer.status_code, answer.text)
        try:
            return answer.json()
        except ValueError as error:
            raise WorkerError(f"{worker.url} answered {path} with what is no JSON") from error

    def events(self, worker: Worker, payload: Mapping[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The events of a streamed answer; closing the iterator cancels it on the server."""
        try:
            with self._client.stream("POST", worker.url + "/generate", json=payload) as answer:
                if answer.status_code >= 400:
                    answer.read()
                    raise self._refused(worker, answer.status_code, answer.text)
                for line in answer.iter_lines():
                    if line.startswith("data: ") and line != "data: [DONE]":
                        yield self._event(worker, json.loads(line[6:]))
        except self._broken as error:
            raise self._lost(worker, error) from error

    def _event(self, worker: Worker, event: dict[str, Any]) -> dict[str, Any]:
        error = event.get("error")
        if error:
            code = error.get("code") if isinstance(error, dict) else None
            raise self._refused(worker, code if isinstance(code, int) else 400, json.dumps(event))
        reason = event.get("meta_info", {}).get("finish_reason") or {}
        if reason.get("type") == "abort":
            raise self._refused(worker, reason.get("status_code") or 503, str(reason.get("message")))
        return event

    def _lost(self, worker: Worker, error: Exception) -> WorkerError:
        with self._free:
            worker.down_until, worker.info = time.monotonic() + DOWN, None
        return WorkerError(f"{worker.url} does not answer ({type(error).__name__})")

    def _refused(self, worker: Worker, status: int, text: str) -> Exception:
        message = _message(text)
        if status in RETRIED:
            return WorkerError(f"{worker.url}: {message}")
        if status in (401, 403):
            return EngineError(f"{worker.url} wants another API key: set MEMKIT_SGLANG_API_KEY")
        return EngineError(f"{worker.url} refused: {message}")

    # -- any server -----------------------------------------------------------------------------
    def run(self, affinity: str, work: Callable[[Worker], T]) -> T:
        """The result of ``work`` on one server, with retries; see `stream`."""
        (result,) = self.stream(affinity, lambda worker: iter([work(worker)]))
        return result

    def stream(self, affinity: str, start: Callable[[Worker], Iterator[T]]) -> Generator[T, None, None]:
        """Yield from ``start`` on one server; if that raises `WorkerError`, from ``start`` on another one.

        Requests with the same ``affinity`` go to the same server while it has room, so that its cache is
        used. Raises `EngineError` after the last attempt, or when no server has room in time.
        """
        tried, failures = set[str](), list[str]()
        for attempt in range(self._config.attempts):
            if tried >= {worker.url for worker in self.all}:
                time.sleep(PAUSE * 2 ** (attempt - 1))
                tried.clear()
            with self._turn(affinity, tried) as worker:
                tried.add(worker.url)
                try:
                    self.ready(worker)
                    yield from start(worker)
                    return
                except WorkerError as error:
                    failures.append(str(error))
        raise EngineError(
            f"no SGLang server did the work, in {len(failures)} attempts; the last: {failures[-1]}. "
            "Start one with the flags of memkit sglang-args"
        )

    def ready(self, worker: Worker) -> Mapping[str, Any]:
        """A server's description, after it was checked. Raises `WorkerError` or `EngineError`."""
        info = worker.info
        if info is None:
            info = worker.info = self._check(worker)
        return info

    @contextmanager
    def _turn(self, affinity: str, tried: Collection[str]) -> Iterator[Worker]:
        """A server with room for a request; waits for one."""
        worker = self._acquire(affinity, tried)
        try:
            yield worker
        finally:
            with self._free:
                worker.active -= 1
                self._free.notify()

    def _acquire(self, affinity: str, tried: Collection[str]) -> Worker:
        config, deadline = self._config, time.monotonic() + self._config.wait
        with self._free:
            worker = self._choose(affinity, tried)
            if worker is None and self._waiting >= config.waiting:
                raise EngineError(f"{self._waiting} requests wait for SGLang already; try again later")
            self._waiting += 1
            try:
                while worker is None:
                    remaining = deadline - time.monotonic()
                    if remaining <= 0:
                        raise EngineError(f"SGLang had no room for {config.wait:g} s; try again later")
                    self._free.wait(remaining)
                    worker = self._choose(affinity, tried)
            finally:
                self._waiting -= 1
            worker.active += 1
        return worker

    def _choose(self, affinity: str, tried: Collection[str]) -> Worker | None:
        """A server with room, not tried and not down if possible, first in the affinity's order; else
        None."""
        now = time.monotonic()
        candidates = [w for w in self.all if w.url not in tried] or self.all
        candidates = [w for w in candidates if w.down_until <= now] or candidates
        room = [w for w in candidates if w.active < self._config.in_flight]
        return min(room, key=lambda w: _rank(affinity, w.url), default=None)


def _rank(affinity: str, url: str) -> bytes:
    return hashlib.sha256(f"{affinity}\0{url}".encode()).digest()


def _message(text: str) -> str:
    """The message of an error, in any of the forms in which SGLang sends it."""
    try:
        value: Any = json.loads(text)
    except ValueError:
        return text[:300] or "no reason given"
    for key in ("error", "message", "detail", "error_message"):
        while isinstance(value, dict) and key in value:
            value = value[key]
    return str(value)[:300]


def urls_of(text: str | Sequence[str]) -> tuple[str, ...]:
    """The URLs of a list, or of a comma-separated text."""
    parts = text.split(",") if isinstance(text, str) else text
    return tuple(part.strip() for part in parts if part.strip())
