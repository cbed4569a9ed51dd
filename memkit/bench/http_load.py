"""Load-test the server with many concurrent clients: ``memkit bench load``.

Checks that all requests are answered, from the tenant's own memories only, and that the server does not grow.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx2

from memkit.bank import Bank
from memkit.bench.http_overhead import overhead
from memkit.bench.http_server import LiveServer
from memkit.errors import ConfigError, EngineError
from memkit.evals.timing import stamp
from memkit.models.nano import words
from memkit.server.config import ServerConfig

PEOPLE, WARM_UP = 12, 0.2  # people in the facts of all tenants; share of the time that is not counted
KINDS = ("answers", "remembers", "forgets")
TIMEOUT = 180.0  # seconds of one request
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class LoadConfig:
    """The load. Raises `ConfigError` for invalid values."""

    clients: int = 64
    seconds: float = 300.0
    remembers: float = 0.2  # share of requests that remember
    forgets: float = 0.02  # share of requests that forget
    tenants: int = 8
    model: str = "nano"
    seed: int = 0
    samples: int = 200  # sequential requests, for the overhead

    def __post_init__(self) -> None:
        if min(self.clients, self.tenants) < 1 or self.seconds <= 0:
            raise ConfigError("clients and tenants must be at least 1, and seconds positive")
        if not 0 <= self.remembers + self.forgets <= 1:
            raise ConfigError("the shares of remembers and forgets are 1 together at most")


@dataclass
class Tenant:
    """One tenant, the place where each person lives according to it, and its memories' ids."""

    name: str
    places: dict[str, str]
    key: str = ""
    ids: set[str] = field(default_factory=set)
    free: list[str] = field(default_factory=list)  # ids that may be forgotten

    def facts(self) -> Iterator[str]:
        for person, place in self.places.items():
            yield f"{person} lives in {place}."


@dataclass
class Observed:
    """The results of all clients."""

    counts: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    crossed: list[str] = field(default_factory=list)


def bench(config: LoadConfig, progress: Progress = lambda label, done, total: None) -> dict[str, Any]:
    """Measure the server's overhead with sequential requests, then the load on a server process on
    loopback."""
    rng = random.Random(config.seed)
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # of other programs
    tenants, model_id = _tenants(config, rng), ServerConfig(Path(), config.model).model_id
    with tempfile.TemporaryDirectory() as folder:
        progress("overhead", 0, 2)
        alone = overhead(
            config.model,
            Path(folder) / "alone",
            lambda server: _filled(server, tenants),
            partial(_asked_once, model_id),
            config.samples,
        )
        progress("load", 1, 2)
        loaded = _load(config, tenants, Path(folder) / "bank")
    progress("done", 2, 2)
    row = {
        "clients": config.clients,
        "seconds": config.seconds,
        "tenants": config.tenants,
        **loaded,
        **alone,
        "load_average_before": busy,
    }
    about = {"bench": "load", "model": config.model, "seed": config.seed, **stamp()}
    return {**about, "rows": [row]}


def _tenants(config: LoadConfig, rng: random.Random) -> list[Tenant]:
    """Tenants with facts about the same people, who live in different places according to each tenant."""
    places = set[str]()
    while len(places) < PEOPLE * (config.tenants + 1):
        places.add(words.value(rng, "place", "train"))
    names = sorted(places)
    rng.shuffle(names)
    people = names[:PEOPLE]
    return [
        Tenant(f"tenant {t}", dict(zip(people, names[PEOPLE * (t + 1) :], strict=False)))
        for t in range(config.tenants)
    ]


def _filled(server: LiveServer, tenants: list[Tenant]) -> list[tuple[str, str]]:
    """Store the first tenants' facts; returns (key, question) for each person."""
    pairs = list[tuple[str, str]]()
    for tenant in tenants[:2]:
        with server.client(tenant.name) as client:
            for fact in tenant.facts():
                client.post("/memories", json={"text": fact}).raise_for_status()
        key = server.key(tenant.name)
        pairs += [(key, f"Where does {person} live?") for person in tenant.places]
    return pairs


def _body(model: str, question: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}]
    return {"model": model, "stream": True, "max_tokens": 16, "messages": messages}


def _asked_once(model: str, client: httpx2.Client, question: str) -> None:
    with client.stream("POST", "/v1/chat/completions", json=_body(model, question)) as answer:
        if "data: [DONE]" not in list(answer.iter_lines()):
            raise EngineError("a stream was not whole")


# -- the load -------------------------------------------------------------------------------------
def _load(config: LoadConfig, tenants: list[Tenant], home: Path) -> dict[str, Any]:
    with Bank(home) as bank:
        for tenant in tenants:
            tenant.key = bank.keys.create(tenant.name)[1]
    with _server(home, config.model) as (url, process):
        observed, memory = Observed(), list[int]()
        asyncio.run(_clients(config, tenants, url, process.pid, observed, memory))
        waited = _health(url)
    steady = memory[int(len(memory) * WARM_UP) :] or [0]
    third = max(len(steady) // 3, 1)
    before, after = median(steady[:third]), median(steady[-third:])
    return {
        "requests": sum(observed.counts[name] for name in KINDS),
        **{name: observed.counts[name] for name in KINDS},
        "errors": len(observed.errors),
        "first_errors": observed.errors[:5],
        "cross_tenant": len(observed.crossed),
        "right": observed.counts["right"] / max(observed.counts["answers"], 1),
        "answers_per_second": observed.counts["answers"] / config.seconds,
        "first_token_ms_p50": _percentile(observed.first, 50),
        "first_token_ms_p95": _percentile(observed.first, 95),
        "answer_ms_p50": _percentile(observed.whole, 50),
        "answer_ms_p95": _percentile(observed.whole, 95),
        "rss_mb_before": before / 2**20,
        "rss_mb_after": after / 2**20,
        "memory_growth": after / before - 1 if before else None,
        "health_ms_afterwards": waited,
    }


@contextmanager
def _server(home: Path, model: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """``memkit serve`` as a separate process, without compilation."""
    command = [sys.executable, "-m", "memkit", "serve", "--port", "0", "--home", str(home), "--model", model]
    command += ["--rate", str(10**9), "--no-compile", "--timeout", str(TIMEOUT)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr or ():
            if match := re.search(r"http://[\d.:]+", line):
                yield match.group(), process
                return
        raise EngineError(f"the server ended with {process.wait()}")
    finally:
        process.terminate()
        process.communicate()


async def _clients(
    config: LoadConfig, tenants: list[Tenant], url: str, pid: int, observed: Observed, memory: list[int]
) -> None:
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=url, timeout=TIMEOUT, limits=limits) as http:
        for tenant in tenants:
            for fact in tenant.facts():
                await _remember(http, tenant, fact, observed, kept=True)
        observed.counts.clear()
        until = time.monotonic() + config.seconds
        watching = asyncio.create_task(_watch(pid, memory, until))
        await asyncio.gather(
            *(_client(config, tenants, number, http, observed, until) for number in range(config.clients))
        )
        await watching


async def _watch(pid: int, memory: list[int], until: float) -> None:
    """Sample the server's resident memory in bytes, if the system reports it."""
    file, page = Path(f"/proc/{pid}/statm"), os.sysconf("SC_PAGE_SIZE")
    while time.monotonic() < until and file.exists():
        memory.append(int(file.read_text().split()[1]) * page)
        await asyncio.sleep(0.5)


async def _client(
    config: LoadConfig,
    tenants: list[Tenant],
    number: int,
    http: httpx2.AsyncClient,
    observed: Observed,
    until: float,
) -> None:
    tenant, rng = tenants[number % len(tenants)], random.Random(f"{config.seed} {number}")
    model = ServerConfig(Path(), config.model).model_id
    others = {place for other in tenants if other is not tenant for place in other.places.values()}
    while time.monotonic() < until:
        chance = rng.random()
        try:
            if chance < config.remembers:
                name, thing = words.value(rng, "name", "train"), words.value(rng, "thing", "train")
                await _remember(http, tenant, f"{name}'s dog is called {thing.capitalize()}.", observed)
            elif chance < config.remembers + config.forgets and tenant.free:
                await _forget(http, tenant, observed)
            else:
                await _ask(http, model, tenant, rng.choice(list(tenant.places)), others, observed)
        except (httpx2.HTTPError, ValueError, KeyError) as error:
            observed.errors.append(f"{type(error).__name__}: {error}"[:200])


def _headers(tenant: Tenant) -> dict[str, str]:
    return {"Authorization": f"Bearer {tenant.key}"}


async def _remember(
    http: httpx2.AsyncClient, tenant: Tenant, text: str, observed: Observed, *, kept: bool = False
) -> None:
    answer = await http.post("/memories", json={"text": text}, headers=_headers(tenant))
    answer.raise_for_status()
    memory_id = answer.json()["memory"]["id"]
    tenant.ids.add(memory_id)
    if not kept:
        tenant.free.append(memory_id)
    observed.counts["remembers"] += 1


async def _forget(http: httpx2.AsyncClient, tenant: Tenant, observed: Observed) -> None:
    memory_id = tenant.free.pop()
    (await http.delete(f"/memories/{memory_id}", headers=_headers(tenant))).raise_for_status()
    observed.counts["forgets"] += 1


async def _ask(
    http: httpx2.AsyncClient, model: str, tenant: Tenant, person: str, others: set[str], observed: Observed
) -> None:
    started, first, text, used, done = time.perf_counter(), 0.0, "", None, False
    body = _body(model, f"Where does {person} live?")
    async with http.stream("POST", "/v1/chat/completions", json=body, headers=_headers(tenant)) as answer:
        if answer.status_code != 200:
            await answer.aread()
            answer.raise_for_status()
        async for line in answer.aiter_lines():
            first = first or (time.perf_counter() - started) * 1000
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                chunk = json.loads(line.removeprefix("data: "))
                text += chunk["choices"][0]["delta"].get("content", "")
                used = chunk.get("memkit", {}).get("memory_id", used)
    observed.counts["answers"] += 1
    observed.first.append(first)
    observed.whole.append((time.perf_counter() - started) * 1000)
    if not done:
        observed.errors.append("a stream was not whole")
    if any(place in text for place in others) or (used is not None and used not in tenant.ids):
        observed.crossed.append(f"{tenant.name}: {text!r:.100} from {used}")
    observed.counts["right"] += tenant.places[person].lower() in text.lower()


def _health(url: str) -> float:
    started = time.perf_counter()
    httpx2.get(f"{url}/health", timeout=TIMEOUT).raise_for_status()
    return (time.perf_counter() - started) * 1000


def _percentile(values: list[float], share: int) -> float | None:
    return quantiles(values, n=100)[share - 1] if len(values) > 1 else None
