"""No tenant sees, changes or removes what is another's."""

from __future__ import annotations

import inspect
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from memkit.artifact.format import Artifact, Manifest
from memkit.bank import Bank
from memkit.bank.api_keys import ApiKeys
from memkit.bank.conversation_logs import ConversationLogs
from memkit.bank.deletion import Deletion
from memkit.bank.leases import Leases
from memkit.bank.policies import Policies
from memkit.bank.versions import Versions
from memkit.document import Document, Span
from memkit.errors import ArtifactError, NotFoundError

TENANTS = ["alice", "Alice", "al%ce"]  # alike for a LIKE that is not escaped
TEXTS = [f"text number {n}" for n in range(6)]
DIM = 4

tenants, texts = st.sampled_from(TENANTS), st.sampled_from(TEXTS)


def artifact(tenant: str, n: int = 0) -> bytes:
    return Artifact.encode(Manifest("text", "none", "1", {"n": n}, 0, "f", 0, tenant, ()), {})


def embeddings(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Two distinct unit vectors for each text, float32 [2, DIM]."""
    rows = np.random.default_rng(TEXTS.index(text)).standard_normal((2, DIM))
    unit: np.ndarray[Any, np.dtype[np.float32]] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit.astype(np.float32)


def remember(bank: Bank, tenant: str, text: str) -> str:
    spans = [Span(0, 4), Span(4, len(text))]
    return bank.remember(tenant, Document(text), spans, embeddings(text)).id


class Tenants(RuleBasedStateMachine):
    """The bank against a dict: tenant -> memory id -> (text, artifact versions)."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.bank = Bank(self.folder)
        self.model: dict[str, dict[str, tuple[str, list[int]]]] = {tenant: {} for tenant in TENANTS}

    def teardown(self) -> None:
        self.bank.close()
        shutil.rmtree(self.folder)

    def some_id(self, choice: int) -> str:
        ids = sorted(id for memories in self.model.values() for id in memories)
        return ids[choice % len(ids)]

    def has_memories(self) -> bool:
        return any(self.model.values())

    @rule(tenant=tenants, text=texts)
    def remember(self, tenant: str, text: str) -> None:
        id = remember(self.bank, tenant, text)
        assert all(id not in self.model[other] for other in TENANTS if other != tenant)
        self.model[tenant].setdefault(id, (text, []))

    @precondition(has_memories)
    @rule(tenant=tenants, choice=st.integers(0, 99), n=st.integers(0, 2))
    def publish(self, tenant: str, choice: int, n: int) -> None:
        id = self.some_id(choice)
        if id not in self.model[tenant]:
            with pytest.raises(NotFoundError):
                self.bank.publish(tenant, id, artifact(tenant, n))
            return
        _, versions = self.model[tenant][id]
        if versions[-1:] != [n]:
            versions.append(n)
        assert self.bank.publish(tenant, id, artifact(tenant, n)).version == len(versions)

    @precondition(has_memories)
    @rule(tenant=tenants, other=tenants, choice=st.integers(0, 99))
    def publish_what_is_anothers(self, tenant: str, other: str, choice: int) -> None:
        if tenant != other:
            with pytest.raises(ArtifactError):
                self.bank.publish(tenant, self.some_id(choice), artifact(other))

    @precondition(has_memories)
    @rule(tenant=tenants, choice=st.integers(0, 99))
    def forget(self, tenant: str, choice: int) -> None:
        id = self.some_id(choice)
        if id not in self.model[tenant]:
            with pytest.raises(NotFoundError):
                self.bank.forget(tenant, id)
            return
        _, versions = self.model[tenant].pop(id)
        (receipt,) = self.bank.forget(tenant, id)
        assert (receipt.memory_id, receipt.artifacts_removed, receipt.chunks_removed) == (
            id,
            len(versions),
            2,
        )

    @rule(tenant=tenants)
    def forget_all(self, tenant: str) -> None:
        receipts = self.bank.forget(tenant)
        assert {receipt.memory_id for receipt in receipts} == set(self.model[tenant])
        self.model[tenant].clear()

    @rule(tenant=tenants, text=texts, k=st.integers(1, 20))
    def search(self, tenant: str, text: str, k: int) -> None:
        query = embeddings(text)[0]
        expected = sorted(
            (
                max(float(row @ query) for row in embeddings(stored))
                for stored, _ in self.model[tenant].values()
            ),
            reverse=True,
        )
        hits = self.bank.search(tenant, query, k)
        assert {hit.memory_id for hit in hits} <= set(self.model[tenant])
        assert np.allclose([hit.score for hit in hits], expected[:k], atol=1e-5)

    @precondition(has_memories)
    @rule(tenant=tenants, choice=st.integers(0, 99), text=texts)
    def search_within(self, tenant: str, choice: int, text: str) -> None:
        id, query = self.some_id(choice), embeddings(text)[0]
        hits = self.bank.search(tenant, query, 9, within=id)
        if id not in self.model[tenant]:
            assert hits == []
            return
        expected = sorted((float(row @ query) for row in embeddings(self.model[tenant][id][0])), reverse=True)
        assert np.allclose([hit.score for hit in hits], expected, atol=1e-5)

    @rule(tenant=tenants)
    def reembed(self, tenant: str) -> None:
        spans = [Span(0, 4), Span(4, 13)]
        count = self.bank.reembed(tenant, "", lambda document: (spans, embeddings(document.text)))
        assert count == len(self.model[tenant])

    @precondition(has_memories)
    @rule(tenant=tenants, choice=st.integers(0, 99), length=st.sampled_from([12, 16]))
    def get(self, tenant: str, choice: int, length: int) -> None:
        id = self.some_id(choice)
        if id in self.model[tenant]:
            text, versions = self.model[tenant][id]
            assert self.bank.get(tenant, id[:length]).version == len(versions)
            assert self.bank.source(tenant, id).text == text
            return
        for call in (self.bank.get, self.bank.source, self.bank.artifact):
            with pytest.raises(NotFoundError):
                call(tenant, id)

    @precondition(has_memories)
    @rule(tenant=tenants, choice=st.integers(0, 99))
    def artifact(self, tenant: str, choice: int) -> None:
        id = self.some_id(choice)
        _, versions = self.model[tenant].get(id, ("", []))
        if not versions:
            with pytest.raises(NotFoundError):
                self.bank.artifact(tenant, id)
            return
        with self.bank.artifact(tenant, id) as current:
            assert current.manifest.tenant == tenant
            assert current.manifest.config == {"n": versions[-1]}

    @rule()
    def reopen(self) -> None:
        self.bank.close()
        self.bank = Bank(self.folder)

    @rule()
    def repair(self) -> None:
        assert len(self.bank.repair(grace=-1)) == 1  # no strays

    @invariant()
    def agrees_with_the_model(self) -> None:
        for tenant, memories in self.model.items():
            infos = {info.id: info for info in self.bank.list(tenant)}
            assert set(infos) == set(memories)
            assert self.bank.exists(tenant) == bool(memories)
            assert {info.tenant for info in infos.values()} <= {tenant}
            for id, (_, versions) in memories.items():
                assert infos[id].version == len(versions)

    @invariant()
    def files_are_those_of_the_model(self) -> None:
        expected = {
            self.bank._store.local(tenant, Artifact.decode(artifact(tenant, n)).id)
            for tenant, memories in self.model.items()
            for _, versions in memories.values()
            for n in versions
        }
        assert set(self.folder.glob("artifacts/*/*")) == expected


Tenants.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestTenants = Tenants.TestCase


PARTS = (Bank, ConversationLogs, Versions, Deletion, Leases, Policies, ApiKeys)


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in PARTS for name in vars(kind) if not name.startswith("_")]
)
def test_every_call_names_its_tenant_first(kind: type, name: str) -> None:
    names = list(inspect.signature(getattr(kind, name)).parameters)
    # The others show no content: "tenants" and "tenants_with_prefix" name whom a run must look at, "tenant"
    # and "find" whose a key is.
    assert names[1:2] == ["tenant"] or name in (
        "close",
        "repair",
        "backup",
        "tenants",
        "tenants_with_prefix",
        "tenant",
        "find",
    )


def test_another_tenants_id_is_as_unknown_as_any(tmp_path: Path) -> None:
    with Bank(tmp_path) as bank:
        id = remember(bank, "alice", TEXTS[0])
        bank.publish("alice", id, artifact("alice"))
        before = bank.list("alice")
        for call in (bank.get, bank.source, bank.artifact, bank.forget):
            with pytest.raises(NotFoundError) as others:
                call("bob", id)
            with pytest.raises(NotFoundError) as nobodys:
                call("bob", "0" * 16)
            assert str(others.value).replace(id, "0" * 16) == str(nobodys.value)
        assert bank.list("alice") == before
        assert bank.check("alice") == []
        assert bank.list("bob") == [] == bank.search("bob", embeddings(TEXTS[0])[0], 9)
