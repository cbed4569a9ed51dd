"""Mixed load on two SGLang servers: artifacts come and go, tenants try each other's, a server dies."""

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

SHARES = (("kv", 0.6), ("embeds", 0.3), ("lora", 0.1))  # of the artifacts
PROBES = 0.1  # share of requests in which a tenant tries another one's artifact
LATE = 0.1  # share of requests for what has been forgotten, once there is such
CHANGES = 0.25  # artifacts that are replaced or forgotten, of all


@dataclass
class ItemPool:
    """What is published, as far as a request can know.

    By their ids, artifacts are ``leaving`` from when they begin to be forgotten, and ``gone`` afterwards.
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
    """Counts of what went wrong: ``wrong_artifact`` answers, ``lost`` ones, and what ``leaked``.

    An answer is right when it is the one that the engine in this process gives. A request is lost when its
    artifact was published all the time and it got no answer; refused, when the artifact was forgotten
    before it was over. Leaked are answers with an artifact that had been forgotten before, and answers to a
    tenant with another one's: a tenth of the requests ask for either. The second ask as the client would not:
    the artifact's name and its placeholders, with the salt of another tenant.
    """
    config, random_ = run.config, random.Random(run.config.seed)
    items, spare = _items(run, config.artifacts), _items(run, int(config.artifacts * CHANGES) + 1)
    for item in items:
        run.artifacts.publish(item)
    board, tally, done = ItemPool(list(items)), Counter[str](), threading.Event()
    plans = [(random_.random() < PROBES, random_.randrange(1 << 30)) for _ in range(config.requests)]
    count = 0
    times = list[float]()
    with run.serving(2, attempts=10) as (made, engine):
        views = {tenant: engine.for_tenant(tenant) for tenant in TENANTS}
        changer = threading.Thread(target=_change, args=(run, board, spare, done))

        def ask(plan: tuple[bool, int]) -> None:
            nonlocal count
            started = time.perf_counter()
            found = _ask(views, board, made, *plan)
            with board.lock:
                tally[found] += 1
                times.append(time.perf_counter() - started)
                count += 1
                at = count
            run.progress("mixed", at, config.requests)
            if at == config.requests * 2 // 5:
                made[0].kill()

        started = time.perf_counter()
        changer.start()
        with ThreadPoolExecutor(config.concurrent) as pool:
            list(pool.map(ask, plans))
        seconds = time.perf_counter() - started
        done.set()
        changer.join()
        killed = not made[0].running
    times.sort()
    return {
        "row": "mixed",
        "requests": config.requests,
        "concurrent": config.concurrent,
        "artifacts": config.artifacts,
        "tenants": len(TENANTS),
        "changed": len(board.gone),
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
    """Items of each kind and tenant, each of another document."""
    made = list[Item]()
    for kind, share in SHARES:
        for number in range(max(round(count * share), 1)):
            tenant = TENANTS[number % len(TENANTS)]
            made += [run.maker.answered(item, TOKENS) for item in run.maker.items(kind, tenant, 1)]
            run.progress("mixed, artifacts", len(made), count)
    return made


def _ask(
    views: dict[str, SGLangEngine], board: ItemPool, servers: Sequence[Server], probe: bool, seed: int
) -> str:
    """One request; what became of it."""
    random_ = random.Random(seed)
    item = board.pick(random_, 0.0 if probe else LATE)
    was_gone, view = item.artifact.id in board.gone, views[item.tenant]
    try:
        request = Request(item.question, handle=view.attach(item.artifact), max_tokens=TOKENS)
        if probe:
            other = random_.choice([other for other in TENANTS if other != item.tenant])
            return _probe(view.payload(request), views[other].payload(Request("?"))["cache_salt"], servers)
        (completion,) = view.generate([request])
    except EngineError:
        return "refused" if item.artifact.id in board.leaving else "lost"
    if was_gone:
        return "leaked"
    return "right" if completion.text == item.expected else "wrong_artifact"


def _probe(sent: dict[str, Any], salt: str, servers: Sequence[Server]) -> str:
    """Ask for an artifact with another tenant's salt."""
    import httpx

    payload = {**sent, "cache_salt": salt, "sampling_params": {"max_new_tokens": 1}}
    for server in reversed(servers):  # the first one is going to die
        try:
            status = httpx.post(f"{server.url}/generate", json=payload, timeout=60).status_code
        except httpx.TransportError:
            continue
        return "leaked" if status == 200 else "probes_refused"
    return "lost"


def _change(run: SGLangRun, board: ItemPool, spare: list[Item], done: threading.Event) -> None:
    """Forget artifacts one after the other, and publish others in the place of most of them."""
    random_ = random.Random(run.config.seed + 1)
    for number, new in enumerate(spare):
        if done.wait(0.2):
            return
        old = board.pick(random_)
        if number % 4:
            run.artifacts.publish(new)
            board.replace(old, new)
        else:
            board.replace(old, None)
        board.forget(old, run.artifacts)
