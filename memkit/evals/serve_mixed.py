"""Mixed load on two SGLang servers: artifacts come and go, tenants try each other's, a server dies."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from memkit.engine.base import Request
from memkit.engine.sglang import SGLangEngine
from memkit.errors import EngineError
from memkit.evals.bench_serve import TENANTS, TOKENS, Serve
from memkit.evals.serve_kit import Item

SHARES = (("kv", 0.6), ("embeds", 0.3), ("lora", 0.1))  # of the artifacts
PROBES = 0.1  # share of requests in which a tenant tries another one's artifact
CHANGES = 0.25  # artifacts that are replaced or forgotten, of all


@dataclass
class Board:
    """What is published, as far as a request can know; ``gone`` are artifacts that were forgotten."""

    live: list[Item]
    gone: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def pick(self, random_: random.Random) -> Item:
        with self.lock:
            return random_.choice(self.live)

    def replace(self, old: Item, new: Item | None) -> None:
        with self.lock:
            self.live.remove(old)
            if new is not None:
                self.live.append(new)

    def forgotten(self, item: Item) -> bool:
        with self.lock:
            return item.artifact.id in self.gone

    def forget(self, item: Item) -> None:
        with self.lock:
            self.gone.add(item.artifact.id)


def mixed(run: Serve) -> dict[str, Any]:
    """Counts of what went wrong: ``wrong_artifact`` answers, ``lost`` ones, and what ``leaked``.

    An answer is right when it is the one that the engine in this process gives. A request is lost when its
    artifact was published all the time and it got no answer; refused, when the artifact was forgotten
    before it was over. Leaked are answers with an artifact that had been forgotten before, and answers to a
    tenant with another one's.
    """
    config, random_ = run.config, random.Random(run.config.seed)
    items, spare = _items(run, config.artifacts), _items(run, int(config.artifacts * CHANGES) + 1)
    for item in items:
        run.shelf.publish(item)
    board, tally, done = Board(list(items)), Counter[str](), threading.Event()
    plans = [(random_.random() < PROBES, random_.randrange(1 << 30)) for _ in range(config.requests)]
    count = 0
    times = list[float]()
    with run.serving(2, attempts=10) as (made, engine):
        views = {tenant: engine.for_tenant(tenant) for tenant in TENANTS}
        changer = threading.Thread(target=_change, args=(run, board, spare, done))

        def ask(plan: tuple[bool, int]) -> None:
            nonlocal count
            started = time.perf_counter()
            found = _ask(views, board, *plan)
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


def _items(run: Serve, count: int) -> list[Item]:
    """Items of each kind and tenant, each of another document."""
    made = list[Item]()
    for kind, share in SHARES:
        for number in range(max(round(count * share), 1)):
            tenant = TENANTS[number % len(TENANTS)]
            made += [run.maker.answered(item, TOKENS) for item in run.maker.items(kind, tenant, 1)]
            run.progress("mixed, artifacts", len(made), count)
    return made


def _ask(views: dict[str, SGLangEngine], board: Board, probe: bool, seed: int) -> str:
    """One request; what became of it."""
    random_ = random.Random(seed)
    item = board.pick(random_)
    tenant = item.tenant
    if probe:
        tenant = random_.choice([other for other in TENANTS if other != item.tenant])
    was_gone = board.forgotten(item)
    try:
        handle = views[tenant].attach(item.artifact)
        request = Request(item.question, handle=handle, max_tokens=TOKENS)
        (completion,) = views[tenant].generate([request])
    except EngineError:
        if probe:
            return "probes_refused"
        return "refused" if board.forgotten(item) else "lost"
    if probe or was_gone:
        return "leaked"
    return "right" if completion.text == item.expected else "wrong_artifact"


def _change(run: Serve, board: Board, spare: list[Item], done: threading.Event) -> None:
    """Forget artifacts one after the other, and publish others in the place of most of them."""
    random_ = random.Random(run.config.seed + 1)
    for number, new in enumerate(spare):
        if done.wait(0.2):
            return
        old = board.pick(random_)
        if number % 4:
            run.shelf.publish(new)
            board.replace(old, new)
        else:
            board.replace(old, None)
        run.shelf.forget(old)
        board.forget(old)
