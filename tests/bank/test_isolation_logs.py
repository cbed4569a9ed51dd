"""No sequence of operations on running memories and their versions crosses tenants, or loses an entry."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from memkit.artifact.format import Artifact, Manifest
from memkit.bank import Bank, CompiledFrom, MemoryInfo, Message
from memkit.bank.types import memory_id_of, running_digest
from memkit.document import Document, Span
from memkit.errors import BankBusyError, ConfigError, NotFoundError

TENANTS, NAMES = ["alice", "Alice", "al%ce"], ["profile", "work"]
START = datetime(2026, 1, 1, tzinfo=UTC)
tenants, names, picks = st.sampled_from(TENANTS), st.sampled_from(NAMES), st.integers(0, 99)


def embed(document: Document) -> tuple[Sequence[Span], np.ndarray[Any, Any]]:
    seed = int.from_bytes(bytes.fromhex(document.digest[:8]))
    row = np.random.default_rng(seed).standard_normal((1, 4))
    return [Span(0, len(document.text))], (row / np.linalg.norm(row)).astype("f4")


@dataclass
class Log:
    """What a running memory should hold: lines by time, and what each version has seen of them."""

    lines: dict[datetime, str] = field(default_factory=dict)
    numbers: dict[datetime, int] = field(default_factory=dict)
    versions: dict[int, set[datetime]] = field(default_factory=dict)
    current: int = 0
    pinned: bool = False

    @property
    def text(self) -> str:
        return "\n".join(self.lines[at] for at in sorted(self.lines))


class RunningMemories(RuleBasedStateMachine):
    """The bank against a dict: tenant -> name -> `Log`."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.bank = Bank(self.folder)
        self.model: dict[str, dict[str, Log]] = {tenant: {} for tenant in TENANTS}
        self.made = 0

    def teardown(self) -> None:
        self.bank.close()
        shutil.rmtree(self.folder)

    def id_of(self, tenant: str, name: str) -> str:
        return memory_id_of(tenant, running_digest(name))

    def log(self, tenant: str, name: str) -> Log | None:
        """The log; or None, after seeing that its absence is an error and changes nothing."""
        log = self.model[tenant].get(name)
        if log is None:
            for other in TENANTS:  # an id is worth nothing in another's hands
                if other != tenant:
                    with pytest.raises(NotFoundError):
                        self.bank.versions.history(tenant, self.id_of(other, name))
        return log

    @rule(tenant=tenants, name=names, day=st.integers(0, 40), words=st.integers(1, 3))
    def append(self, tenant: str, name: str, day: int, words: int) -> None:
        self.made += 1
        text, at = f"fact {self.made} of {tenant}" + " more" * words, START + timedelta(days=day)
        info = self.bank.logs.append(tenant, name, [Message(text, when=at)], embed)
        assert info.id == self.id_of(tenant, name)
        log = self.model[tenant].setdefault(name, Log())
        while at in log.lines:
            at += timedelta(microseconds=1)
        log.lines[at] = f"{at.date()} user: {text}"
        log.numbers[at] = next(e.number for e in self.bank.logs.entries(tenant, info.id) if e.said == at)
        assert list(log.numbers.values()).count(log.numbers[at]) == 1

    @rule(tenant=tenants, name=names, skip=st.integers(0, 2))
    def publish(self, tenant: str, name: str, skip: int) -> None:
        """Compile all but the ``skip`` oldest entries."""
        if (log := self.log(tenant, name)) is None:
            return
        self.made += 1
        seen = sorted(log.lines)[min(skip, len(log.lines) - 1) :]
        manifest = Manifest("text", "none", "1", {"n": self.made}, 0, "f", 0, tenant, ())
        made = CompiledFrom(max(log.numbers.values()), seen[0])
        self.bank.publish(tenant, self.id_of(tenant, name), Artifact.encode(manifest, {}), made)
        number = 1 + max(log.versions, default=0)
        log.versions[number] = set(seen)
        log.current = log.current if log.pinned else number

    @rule(tenant=tenants, name=names, pick=picks, count=st.integers(1, 2))
    def erase(self, tenant: str, name: str, pick: int, count: int) -> None:
        if (log := self.log(tenant, name)) is None:
            return
        entries = self.bank.logs.entries(tenant, self.id_of(tenant, name))
        gone = [entries[(pick + i) % len(entries)] for i in range(min(count, len(entries)))]
        spans = [Span(entry.start, entry.start + 1) for entry in gone]  # a touch is enough
        receipt = self.bank.deletion.erase(tenant, self.id_of(tenant, name), spans, embed)
        times = {entry.said for entry in gone}
        if times == set(log.lines):
            del self.model[tenant][name]
            assert receipt.left is None
            return
        log.versions = {number: seen for number, seen in log.versions.items() if not seen & times}
        for at in times:
            del log.lines[at], log.numbers[at]
        if log.current not in log.versions:
            log.pinned &= not log.current
            log.current = max(log.versions, default=0)

    @rule(tenant=tenants, name=names, pick=picks)
    def rollback(self, tenant: str, name: str, pick: int) -> None:
        log = self.log(tenant, name)
        if log is not None and log.versions:
            log.current = sorted(log.versions)[pick % len(log.versions)]
            self.bank.versions.rollback(tenant, self.id_of(tenant, name), log.current)

    @rule(tenant=tenants, name=names, pinned=st.booleans())
    def pin(self, tenant: str, name: str, pinned: bool) -> None:
        if (log := self.log(tenant, name)) is None:
            return
        if pinned and not log.current:
            with pytest.raises(ConfigError):
                self.bank.versions.pin(tenant, self.id_of(tenant, name))
            return
        self.bank.versions.pin(tenant, self.id_of(tenant, name), pinned)
        log.pinned = pinned

    @rule(tenant=tenants, name=names, keep=st.integers(1, 3))
    def prune(self, tenant: str, name: str, keep: int) -> None:
        if (log := self.log(tenant, name)) is None:
            return
        self.bank.versions.prune(tenant, self.id_of(tenant, name), keep)
        newest = sorted(log.versions)[-keep:]
        log.versions = {n: seen for n, seen in log.versions.items() if n in newest or n == log.current}

    @rule(tenant=tenants, name=names)
    def lease(self, tenant: str, name: str) -> None:
        if self.log(tenant, name) is None:
            return
        with self.bank.leases.take(tenant, self.id_of(tenant, name)), pytest.raises(BankBusyError):
            self.bank.leases.take(tenant, self.id_of(tenant, name))

    @rule(tenant=tenants, owner=tenants, name=names)
    def count(self, tenant: str, owner: str, name: str) -> None:
        before = {other: self.asked(other, name) for other in TENANTS}
        self.bank.count_asked(tenant, {self.id_of(owner, name): 1})
        if tenant == owner and name in self.model[tenant]:
            before[tenant] = (before[tenant] or 0) + 1
        assert {other: self.asked(other, name) for other in TENANTS} == before

    def asked(self, tenant: str, name: str) -> int | None:
        info = self.bank.logs.find(tenant, name)
        return info.asked if info else None

    @rule(tenant=tenants)
    def forget(self, tenant: str) -> None:
        self.bank.forget(tenant)
        self.model[tenant].clear()

    @invariant()
    def agrees_with_the_model(self) -> None:
        for tenant, logs in self.model.items():
            infos = {info.name: info for info in self.bank.list(tenant)}
            assert set(infos) == set(logs)
            for name, log in logs.items():
                self.check(tenant, infos[name], log)

    def check(self, tenant: str, info: MemoryInfo, log: Log) -> None:
        assert self.bank.source(tenant, info.id).text == log.text
        entries = self.bank.logs.entries(tenant, info.id)
        assert [e.line for e in entries] == [log.text[e.start : e.end] for e in entries]
        assert {v.version for v in self.bank.versions.history(tenant, info.id)} == set(log.versions)
        assert (info.version, info.pinned) == (log.current, log.pinned)
        seen = log.versions.get(log.current, set())
        assert {e.said for e in entries if e.compiled} == seen
        for entry in entries:  # every entry is found where it stands
            _, vectors = embed(Document(entry.line))
            hit = max(self.bank.search(tenant, vectors[0], 99, within=info.id), key=lambda h: h.score)
            assert self.bank.excerpts(tenant, [hit]) == [entry.line]

    @invariant()
    def files_are_those_of_the_model(self) -> None:
        kept = sum(len(log.versions) for logs in self.model.values() for log in logs.values())
        assert len(list(self.folder.glob("artifacts/*/*"))) == kept


RunningMemories.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestRunningMemories = RunningMemories.TestCase
