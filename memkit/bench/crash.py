"""Crash tests of the bank: ``memkit bench crash``.

A child process performs random operations on a bank and reports before and after each. It is killed
(SIGKILL) at a random instant, or at a random fault point: before or after an fsync, a rename, a removal, a
statement or a commit. Then the bank must hold everything acknowledged, and the interrupted operation
completely or not at all.
"""

from __future__ import annotations

import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine, event

from memkit.artifact.format import Artifact, Manifest
from memkit.bank import Bank, MemoryInfo, Message
from memkit.bank.types import memory_id_of, running_digest
from memkit.document import Document, Span
from memkit.errors import ArtifactError, BankBusyError, MemkitError
from memkit.evals.timing import stamp

TENANTS = ("alice", "bob")
LOG = "profile"
MAX_MEMORIES = 6  # documents, and entries, of a tenant
REPAIR_EVERY = 25  # kills
MAX_LIFETIME = 0.25  # seconds of a child
POINTS = 120  # fault points of a child
Progress = Callable[[str, int, int], None]
Operation = tuple[str, ...]


@dataclass(frozen=True)
class CrashConfig:
    """The number of kills; ``database`` is the URL of an empty PostgreSQL database, instead of SQLite."""

    kills: int = 2000
    seed: int = 0
    database: str | None = None

    def __post_init__(self) -> None:
        if self.kills < 1:
            raise ValueError(f"kills must be at least 1, got {self.kills}")


@dataclass
class State:
    """The expected content of a tenant: the versions of each document, and the texts of the log's entries."""

    documents: dict[str, list[str]] = field(default_factory=dict)
    entries: list[str] = field(default_factory=list)


World = dict[str, State]


def outcomes_after(world: World, operation: Operation) -> World:
    """The expected content after an operation."""
    kind, tenant, *rest = operation
    world = deepcopy(world)
    state = world[tenant]
    if kind == "remember":
        state.documents.setdefault(rest[0], [])
    elif kind in ("publish", "compile", "recompile"):
        text, label = rest
        if state.documents[text][-1:] != [label]:
            state.documents[text].append(label)
    elif kind == "append":
        state.entries.append(rest[0])
    elif kind == "erase":
        state.entries.remove(rest[0])
    elif kind == "forget":
        del state.documents[rest[0]]
    return world


def crash(config: CrashConfig, progress: Progress = lambda label, done, total: None) -> dict[str, Any]:
    """Kill children and check the bank; returns ``{"bench": "crash", "rows": [...]}``."""
    with tempfile.TemporaryDirectory(prefix="memkit-crash-") as folder:
        run = _Run(config, Path(folder))
        for kill in range(config.kills):
            progress("kill", kill, config.kills)
            run.kill(kill)
        run.repair()
    return {
        "bench": "crash",
        "seed": config.seed,
        **stamp(),
        "rows": [run.row()],
    }


class _Run:
    """The parent process: kills children and checks the bank after each."""

    def __init__(self, config: CrashConfig, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._random = random.Random(config.seed)
        self.world: World = {tenant: State() for tenant in TENANTS}
        self.counts, self.killed = Counter[str](), Counter[str]()
        self.notes = list[str]()
        self._started = time.monotonic()
        with self._bank() as bank:
            bank.tenants()

    def _bank(self) -> Bank:
        return Bank(self._folder, database=self._config.database)

    def kill(self, number: int) -> None:
        """Run one child until it is killed, then check the bank."""
        reading, writing = os.pipe()
        point = self._random.randrange(1, POINTS) if number % 2 else 0
        delay, seed = self._random.uniform(0, MAX_LIFETIME), self._random.random()
        child = os.fork()
        if not child:
            os.close(reading)
            _work(self._bank, self.world, random.Random(seed), writing, point)
        os.close(writing)
        if not point:
            time.sleep(delay)
            os.kill(child, signal.SIGKILL)
        with os.fdopen(reading, "rb") as pipe:
            lines = pipe.read().decode().splitlines(keepends=True)
        os.waitpid(child, 0)
        self._check([json.loads(line) for line in lines if line.endswith("\n")], number)

    def _check(self, messages: Sequence[dict[str, Any]], number: int) -> None:
        under_way: Operation | None = None
        for message in messages:
            operation = tuple(message["operation"])
            self.counts["begun"] += message["state"] == "begun"
            if message["state"] == "done":
                self.world, under_way = outcomes_after(self.world, operation), None
                self.counts["acknowledged"] += 1
            elif message["state"] == "failed":
                self._note("lost", f"kill {number}: {operation} failed: {message['why']}")
            else:
                under_way = operation
        self.counts["kills"] += 1
        self.killed[under_way[0] if under_way else "nothing"] += 1
        with self._bank() as bank:
            content = self._read(bank, number)
            possible = (
                [self.world] if under_way is None else [self.world, outcomes_after(self.world, under_way)]
            )
            if content not in possible:
                self._note("lost", f"kill {number}, {under_way}: {content} is none of {possible}")
            self.world = content
            for tenant in TENANTS:
                for info in bank.list(tenant):
                    bank.leases.clear(tenant, info.id)  # its holder was killed
        if number % REPAIR_EVERY == REPAIR_EVERY - 1:
            self.repair()

    def _read(self, bank: Bank, number: int) -> World:
        """The content of the bank; counts damage."""
        world = {tenant: State() for tenant in TENANTS}
        for tenant, state in world.items():
            for info in bank.list(tenant):
                if info.running:
                    state.entries = [entry.text for entry in bank.logs.entries(tenant, info.id)]
                    lines = [entry.line for entry in bank.logs.entries(tenant, info.id)]
                    if "\n".join(lines) != bank.source(tenant, info.id).text:
                        self._note("corrupt", f"kill {number}: a log of {tenant} is not its entries")
                    continue
                state.documents[bank.source(tenant, info.id).text] = list(
                    self._versions(bank, tenant, info, number)
                )
            _, vectors = _embed(Document("anything"))
            hits = bank.search(tenant, vectors[0], 99)
            if len(hits) != len(bank.list(tenant)):
                self._note("corrupt", f"kill {number}: {tenant} finds {len(hits)} memories")
        return world

    def _versions(self, bank: Bank, tenant: str, info: MemoryInfo, number: int) -> Iterator[str]:
        for version in bank.versions.history(tenant, info.id):
            try:
                with bank.artifact(tenant, info.id, version.version) as artifact:
                    yield str(artifact.manifest.config["label"])
            except ArtifactError as error:
                self._note("corrupt", f"kill {number}: {error}")

    def repair(self) -> None:
        """Repair the bank; every file that remains must belong to a memory."""
        with self._bank() as bank:
            bank.repair()
            named = set[Path]()
            for tenant in TENANTS:
                for info in bank.list(tenant):
                    named.add(bank.checkpoint_path(tenant, info.id))
                    for version in bank.versions.history(tenant, info.id):
                        named.add(bank._store.local(tenant, version.artifact_id))
        files = {p for part in ("artifacts", "unfinished") for p in self._folder.glob(f"{part}/*/*")}
        for orphan in files - named:
            self._note("orphans", f"after a repair there is {orphan.relative_to(self._folder)}")

    def _note(self, what: str, text: str) -> None:
        self.counts[what] += 1
        self.notes.append(text)

    def row(self) -> dict[str, Any]:
        """The figures."""
        names = ("kills", "lost", "corrupt", "orphans", "begun", "acknowledged")
        return {
            "row": "crash",
            "backend": "postgresql" if self._config.database else "sqlite",
            **{name: self.counts[name] for name in names},
            "under_way": dict(sorted(self.killed.items())),
            "seconds": round(time.monotonic() - self._started, 1),
            "notes": self.notes[:20],
        }


# -- the child ------------------------------------------------------------------------------------
def _work(open_bank: Callable[[], Bank], world: World, rng: random.Random, pipe: int, point: int) -> None:
    """Perform random operations until killed."""
    if point:
        _fault_points(point)
    with suppress(BaseException), open_bank() as bank:
        deadline = time.monotonic() + 8 * MAX_LIFETIME
        while time.monotonic() < deadline:
            operation = _choose(world, rng)
            _report(pipe, "begun", operation)
            try:
                _do(bank, operation)
            except BankBusyError:
                continue
            except MemkitError as error:
                _report(pipe, "failed", operation, str(error))
                break
            _report(pipe, "done", operation)
            world = outcomes_after(world, operation)
    os.kill(os.getpid(), signal.SIGKILL)


def _report(pipe: int, state: str, operation: Operation, why: str = "") -> None:
    os.write(pipe, (json.dumps({"state": state, "operation": operation, "why": why}) + "\n").encode())


def _choose(world: World, rng: random.Random) -> Operation:
    tenant, label = rng.choice(TENANTS), f"{rng.random():.12f}"
    state = world[tenant]
    texts = sorted(state.documents)
    kinds = ["remember"] * (len(texts) < MAX_MEMORIES) + ["append"] * (len(state.entries) < MAX_MEMORIES)
    kinds += ["publish", "compile", "recompile", "forget"] * bool(texts)
    kinds += ["erase"] * (len(state.entries) > 1) + ["repair"]
    kind = rng.choice(kinds)
    if kind in ("remember", "append"):
        return kind, tenant, f"fact {label}"
    if kind == "erase":
        return kind, tenant, rng.choice(state.entries)
    if kind == "repair":
        return kind, tenant
    return (kind, tenant, rng.choice(texts), *([label] * (kind != "forget")))


def _do(bank: Bank, operation: Operation) -> None:
    kind, tenant, *rest = operation
    if kind == "remember":
        bank.remember(tenant, Document(rest[0]), *_embed(Document(rest[0])))
    elif kind == "append":
        bank.logs.append(tenant, LOG, [Message(rest[0])], _embed, key=rest[0])
    elif kind == "erase":
        memory_id = memory_id_of(tenant, running_digest(LOG))
        (entry,) = (e for e in bank.logs.entries(tenant, memory_id) if e.text == rest[0])
        bank.deletion.erase(tenant, memory_id, [Span(entry.start, entry.end)], _embed)
    elif kind == "repair":
        bank.repair()
    else:
        memory_id = memory_id_of(tenant, Document(rest[0]).digest)
        if kind == "forget":
            bank.forget(tenant, memory_id)
        elif kind == "publish":
            bank.publish(tenant, memory_id, _artifact(tenant, rest[1]))
        else:
            _compile(bank, tenant, memory_id, rest[1], prune=kind == "recompile")


def _compile(bank: Bank, tenant: str, memory_id: str, label: str, *, prune: bool) -> None:
    """Compile like `memkit.memory.Memory.compiled` and the recompilation, but without a model."""
    with bank.leases.take(tenant, memory_id) as lease:
        checkpoint = bank.checkpoint_path(tenant, memory_id)
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        temporary = checkpoint.with_name(f"{checkpoint.name}.{os.getpid()}.partial")
        temporary.write_bytes(os.urandom(64))
        os.replace(temporary, checkpoint)
        lease.renew()
        os.unlink(checkpoint)
        bank.publish(tenant, memory_id, _artifact(tenant, label))
    if prune:
        bank.versions.prune(tenant, memory_id, 99)


def _embed(document: Document) -> tuple[list[Span], Any]:
    seed = int(document.digest[:8], 16)
    return [Span(0, len(document.text))], np.random.default_rng(seed).standard_normal((1, 4)).astype("f4")


def _artifact(tenant: str, label: str) -> bytes:
    return Artifact.encode(Manifest("text", "none", "1", {"label": label}, 0, "f", 0, tenant, ()), {})


def _fault_points(point: int) -> None:
    """Kill this process at the ``point``-th fault point that it reaches."""
    remaining = point

    def pass_by(*_: object) -> None:
        nonlocal remaining
        remaining -= 1
        if remaining <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            pass_by()
            result = function(*arguments, **named)
            pass_by()
            return result

        return wrapped

    for name in ("fsync", "replace", "rename", "unlink"):
        setattr(os, name, around(getattr(os, name)))
    for name in ("before_cursor_execute", "after_cursor_execute", "commit"):
        event.listen(Engine, name, pass_by)
