"""Mixed load on two SGLang servers: artifacts are replaced, other tenants' are requested, a server is
killed."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from memkit.bench.sglang_fixtures import ArtifactFolder, Item
from memkit.bench.sglang_process import Server
from memkit.bench.sglang_run import TENANTS, TOKENS, SGLangRun
from memkit.engine.base import Request
from memkit.engine.sglang.engine import SGLangEngine
from memkit.errors import EngineError

SHARES = (("kv", 0.6), ("embeds", 0.3), ("lora", 0.1))  # of the artifacts, by kind
PROBES = 0.1  # share of requests for another tenant's artifact
LATE = 0.1  # share of requests for forgotten artifacts, once there are any
CHANGES = 0.25  # share of artifacts that are replaced or forgotten


@dataclass
class ItemPool:
    """The published items.

    An artifact's id is in ``leaving`` from the start of forgetting it, and in ``gone`` after its end.
    """

    live: list[Item]
    leaving: set[str] = field(default_factory=set)
    gone: dict[str, Item] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def pick(self, random_: random.Random, late: float = 0.0) -> Item:
        with self.lock:
            return random_.choice(
                [*self.gone.values()] if random_.random() < late and self.gone else self.live
            )

    def replace(self, old: Item, new: Item | None) -> None:
        with self.lock:
            self.live.remove(old)
            if new is not None:
                self.live.append(new)

    def forget(self, item: Item, shelf: ArtifactFolder) -> None:
        with self.lock:
            self.leaving.add(item.artifact.id)
        shelf.forget(item)
        with self.lock:
            self.gone[item.artifact.id] = item


def mixed_load(run: SGLangRun) -> dict[str, Any]:
    """Count the outcomes of requests.

    ``right`` answers equal the in-process engine's; others are ``wrong_artifact``. ``lost`` requests got no
    answer although their artifact was published all the time; ``refused`` ones had their artifact forgotten
    meanwhile. ``leaked`` answers used an artifact that had been forgotten before, or another tenant's. A
    tenth of the requests ask for each of these; for another tenant's they bypass the client, with the
    artifact's key and placeholders and the other tenant's salt.
    """
    config, random_ = run.config, random.Random(run.config.seed)
    items, spare = _items(run, config.artifacts), _items(run, int(config.artifacts * CHANGES) + 1)
    for item in items:
        run.artifacts.publish(item)
    item_pool, tally, done = ItemPool(list(items)), Counter[str](), threading.Event()
    plans = [(random_.random() < PROBES, random_.randrange(1 << 30)) for _ in range(config.requests)]
    count = 0
    times = list[float]()
    with run.serving(2, attempts=10) as (servers, engine):
        views = {tenant: engine.for_tenant(tenant) for tenant in TENANTS}
        changer = threading.Thread(target=_change, args=(run, item_pool, spare, done))

        def ask(plan: tuple[bool, int]) -> None:
            nonlocal count
            started = time.perf_counter()
            outcome = _ask(views, item_pool, servers, *plan)
            with item_pool.lock:
                tally[outcome] += 1
                times.append(time.perf_counter() - started)
                count += 1
                at = count
            run.progress("mixed", at, config.requests)
            if at == config.requests * 2 // 5:
                servers[0].kill()

        started = time.perf_counter()
        changer.start()
        with ThreadPoolExecutor(config.concurrent) as pool:
            list(pool.map(ask, plans))
        seconds = time.perf_counter() - started
        done.set()
        changer.join()
        killed = not servers[0].running
    times.sort()
    return {
        "row": "mixed",
        "requests": config.requests,
        "concurrent": config.concurrent,
        "artifacts": config.artifacts,
        "tenants": len(TENANTS),
        "changed": len(item_pool.gone),
        "servers_killed": int(killed),
        **{
            name: tally[name]
            for name in ("right", "wrong_artifact", "lost", "leaked", "refused", "probes_refused")
        },
        "seconds": seconds,
        "p50_ms": times[len(times) // 2] * 1000,
        "p95_ms": times[int(len(times) * 0.95)] * 1000,
    }


def _items(run: SGLangRun, count: int) -> list[Item]:
    """Items of each kind and tenant, each from a different document."""
    items = list[Item]()
    for kind, share in SHARES:
        for number in range(max(round(count * share), 1)):
            tenant = TENANTS[number % len(TENANTS)]
            items += [run.maker.answered(item, TOKENS) for item in run.maker.items(kind, tenant, 1)]
            run.progress("mixed, artifacts", len(items), count)
    return items


def _ask(
    views: dict[str, SGLangEngine], pool: ItemPool, servers: Sequence[Server], probe: bool, seed: int
) -> str:
    """Send one request; returns its outcome."""
    random_ = random.Random(seed)
    item = pool.pick(random_, 0.0 if probe else LATE)
    was_gone, view = item.artifact.id in pool.gone, views[item.tenant]
    try:
        request = Request(item.question, handle=view.attach(item.artifact), max_tokens=TOKENS)
        if probe:
            other = random_.choice([other for other in TENANTS if other != item.tenant])
            return _probe(view.payload(request), views[other].payload(Request("?"))["cache_salt"], servers)
        (completion,) = view.generate([request])
    except EngineError:
        return "refused" if item.artifact.id in pool.leaving else "lost"
    if was_gone:
        return "leaked"
    return "right" if completion.text == item.expected else "wrong_artifact"


def _probe(request: dict[str, Any], salt: str, servers: Sequence[Server]) -> str:
    """Request an artifact with another tenant's salt."""
    import httpx

    payload = {**request, "cache_salt": salt, "sampling_params": {"max_new_tokens": 1}}
    for server in reversed(servers):  # the first one is killed during the run
        try:
            status = httpx.post(f"{server.url}/generate", json=payload, timeout=60).status_code
        except httpx.TransportError:
            continue
        return "leaked" if status == 200 else "probes_refused"
    return "lost"


def _change(run: SGLangRun, pool: ItemPool, spare: list[Item], done: threading.Event) -> None:
    """Forget artifacts one after the other, and replace most of them by others."""
    random_ = random.Random(run.config.seed + 1)
    for number, new in enumerate(spare):
        if done.wait(0.2):
            return
        old = pool.pick(random_)
        if number % 4:
            run.artifacts.publish(new)
            pool.replace(old, new)
        else:
            pool.replace(old, None)
        pool.forget(old, run.artifacts)
