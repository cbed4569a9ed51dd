"""SGLang servers behind one door: who gets a request, and what becomes of it when one of them fails."""

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

FAILED = (500, 502, 503, 504)  # another server, or the same one a moment later, may do better
PAUSE = 0.1  # seconds before the second attempt at the same servers; doubles
T = TypeVar("T")
DOWN = 2.0  # seconds for which a server that did not answer is left alone


@dataclass(frozen=True)
class SGLangConfig:
    """How servers are used.

    ``in_flight`` requests are sent to a server at once; ``waiting`` more wait for their turn, for at most
    ``wait`` seconds, and the next are refused. ``timeout`` is for an answer, in seconds. A request that fails
    is tried ``attempts`` times in all. ``top`` tokens tell the entropy of a distribution. ``api_key`` is
    SGLang's.
    """

    urls: tuple[str, ...]
    in_flight: int = 32
    waiting: int = 256
    wait: float = 60.0
    timeout: float = 120.0
    attempts: int = 6
    top: int = 256
    api_key: str = field(default="", repr=False)

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
    """One server: how many requests it ``runs``, until when it is left alone, and what it said of itself."""

    url: str
    runs: int = 0
    down: float = 0.0  # a time of the monotonic clock
    info: Mapping[str, Any] | None = None  # None: it has to be asked (again)


class WorkerError(Exception):
    """A server did not do what it was asked, and another one may."""


class Workers:
    """Sends requests to servers that were found fit; ``check`` says so, from what a server says of itself.

    May be used from several threads.
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
    def ask(
        self,
        worker: Worker,
        path: str,
        payload: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """What a server answers. Raises `WorkerError` when it fails, `EngineError` when it refuses."""
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
        """A server's answer as it grows; closing the iterator ends the work there."""
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
            worker.down, worker.info = time.monotonic() + DOWN, None
        return WorkerError(f"{worker.url} does not answer ({type(error).__name__})")

    def _refused(self, worker: Worker, status: int, text: str) -> Exception:
        message = _message(text)
        if status in FAILED:
            return WorkerError(f"{worker.url}: {message}")
        if status in (401, 403):
            return EngineError(f"{worker.url} wants another API key: set MEMKIT_SGLANG_API_KEY")
        return EngineError(f"{worker.url} refused: {message}")

    # -- any server -----------------------------------------------------------------------------
    def run(self, affinity: str, work: Callable[[Worker], T]) -> T:
        """The result of ``work`` with one server; see `stream`."""
        (result,) = self.stream(affinity, lambda worker: iter([work(worker)]))
        return result

    def stream(self, affinity: str, start: Callable[[Worker], Iterator[T]]) -> Generator[T, None, None]:
        """What ``start`` gives with one server; where that fails, what it gives then with another one.

        Requests of the same ``affinity`` go to the same server while it has room, for the sake of its cache.
        Raises `EngineError` when none could do it.
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
        """What a server says of itself, once it was found fit. Raises `WorkerError` or `EngineError`."""
        info = worker.info
        if info is None:
            info = worker.info = self._check(worker)
        return info

    @contextmanager
    def _turn(self, affinity: str, tried: Collection[str]) -> Iterator[Worker]:
        """A server with room; waits for one."""
        worker = self._take(affinity, tried)
        try:
            yield worker
        finally:
            with self._free:
                worker.runs -= 1
                self._free.notify()

    def _take(self, affinity: str, tried: Collection[str]) -> Worker:
        config, deadline = self._config, time.monotonic() + self._config.wait
        with self._free:
            worker = self._choose(affinity, tried)
            if worker is None and self._waiting >= config.waiting:
                raise EngineError(f"{self._waiting} requests wait for SGLang already; try again later")
            self._waiting += 1
            try:
                while worker is None:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise EngineError(f"SGLang had no room for {config.wait:g} s; try again later")
                    self._free.wait(left)
                    worker = self._choose(affinity, tried)
            finally:
                self._waiting -= 1
            worker.runs += 1
        return worker

    def _choose(self, affinity: str, tried: Collection[str]) -> Worker | None:
        """The server to go to: not tried, not down, with room, first in the order of the affinity."""
        now = time.monotonic()
        left = [w for w in self.all if w.url not in tried] or self.all
        left = [w for w in left if w.down <= now] or left
        room = [w for w in left if w.runs < self._config.in_flight]
        return min(room, key=lambda w: _rank(affinity, w.url), default=None)


def _rank(affinity: str, url: str) -> bytes:
    return hashlib.sha256(f"{affinity}\0{url}".encode()).digest()


def _message(text: str) -> str:
    """The words of an error, out of any of the forms in which SGLang sends it."""
    try:
        found: Any = json.loads(text)
    except ValueError:
        return text[:300] or "no reason given"
    for key in ("error", "message", "detail", "error_message"):
        while isinstance(found, dict) and key in found:
            found = found[key]
    return str(found)[:300]


def urls_of(text: str | Sequence[str]) -> tuple[str, ...]:
    """The servers of a comma-separated list."""
    parts = text.split(",") if isinstance(text, str) else text
    return tuple(part.strip() for part in parts if part.strip())
