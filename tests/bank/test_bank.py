"""The memory bank on a real SQLite database, real files and a real FAISS index."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memkit.artifact.format import Artifact, Manifest
from memkit.bank import Bank, Hit, MemoryInfo, Receipt
from memkit.document import Document, Span
from memkit.errors import (
    ArtifactError,
    BankBusyError,
    BankError,
    ConfigError,
    DocumentError,
    MissingExtraError,
    NotFoundError,
)

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}


def vector(index: int, dim: int = 8) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector: np.ndarray[Any, np.dtype[np.float32]] = np.eye(dim, dtype=np.float32)[index % dim]
    return vector


def artifact(tenant: str, n: int = 0) -> bytes:
    return Artifact.encode(Manifest("text", "none", "1", {"n": n}, 0, "f", 0, tenant, ()), {})


def remember(bank: Bank, tenant: str, text: str, index: int = 0) -> MemoryInfo:
    return bank.remember(tenant, Document(text, "a title"), [Span(0, len(text))], vector(index)[None])


def files(bank: Bank) -> list[str]:
    return sorted(path.name for path in (bank.path / "artifacts").rglob("*") if path.is_file())


def on_disk(bank: Bank) -> bytes:
    return b"".join(path.read_bytes() for path in bank.path.rglob("*") if path.is_file())


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with Bank(tmp_path / "bank", timeout=0.2) as bank:
        yield bank


# --- remember, publish, get ------------------------------------------------------------------


def test_remember(bank: Bank) -> None:
    document = Document("Ada lives in Oslo. Bo lives in Rome.", "people")
    spans = [Span(0, 19), Span(19, 36)]
    info = bank.remember("alice", document, spans, np.stack([vector(0), vector(1)]))
    assert (info.title, info.digest, info.characters) == ("people", document.digest, 36)
    assert (info.status, info.version, info.artifact_id, info.error) == ("text", 0, None, None)
    assert info.created.tzinfo is UTC
    assert abs((datetime.now(UTC) - info.created).total_seconds()) < 60
    assert bank.get("alice", info.id) == bank.get("alice", info.id[:3]) == info
    assert bank.list("alice") == [info]
    assert bank.exists("alice")
    assert bank.source("alice", info.id) == document
    hits = bank.search("alice", vector(1), 5)
    assert hits == [Hit(info.id, 1, 19, 36, 1.0)]  # one of each memory
    within = bank.search("alice", vector(1), 5, within=info.id)
    assert within == [Hit(info.id, 1, 19, 36, 1.0), Hit(info.id, 0, 0, 19, 0.0)]
    assert bank.excerpts("alice", within, 3) == ["o. Bo lives in Rome.", "Ada lives in Oslo. Bo "]
    assert bank.excerpts("bob", within) == ["", ""]
    assert bank.search("alice", vector(1), 1) == hits[:1]


def test_a_document_is_remembered_once(bank: Bank) -> None:
    first = remember(bank, "alice", "one")
    bank.publish("alice", first.id, artifact("alice"))
    again = bank.remember("alice", Document("one", "renamed"), [Span(0, 1)], vector(3)[None])
    assert again == bank.get("alice", first.id)
    assert again.title == "a title"
    assert again.version == 1
    assert remember(bank, "bob", "one").id != first.id


def test_publish_keeps_versions_and_rolls_back(bank: Bank) -> None:
    id = remember(bank, "alice", "one").id
    one, two = artifact("alice", 1), artifact("alice", 2)
    assert bank.publish("alice", id, one).version == 1
    info = bank.publish("alice", id, two)
    assert (info.status, info.version, info.artifact_bytes, info.compiler) == (
        "compiled",
        2,
        len(two),
        "none",
    )
    assert bank.publish("alice", id, two) == info
    assert len(files(bank)) == 2
    rolled_back = bank.publish("alice", id, one)
    assert rolled_back.version == 3
    assert rolled_back.artifact_id == Artifact.decode(one).id
    with bank.artifact("alice", id) as current:
        assert current.id == rolled_back.artifact_id
        assert current.manifest.config == {"n": 1}


def test_publish_refuses_other_tenants_and_bad_bytes(bank: Bank) -> None:
    id = remember(bank, "alice", "one").id
    with pytest.raises(ArtifactError, match="another tenant"):
        bank.publish("alice", id, artifact("bob"))
    with pytest.raises(ArtifactError):
        bank.publish("alice", id, artifact("alice")[:-1])
    with pytest.raises(NotFoundError):
        bank.publish("alice", "0" * 16, artifact("alice"))
    assert files(bank) == []
    assert bank.get("alice", id).status == "text"


def test_a_memory_forgotten_while_it_is_published(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    id = remember(bank, "alice", "one").id
    write = bank._store.write

    def write_and_forget(*arguments: Any) -> None:
        write(*arguments)
        bank.forget("alice", id)

    monkeypatch.setattr(bank._store, "write", write_and_forget)
    with pytest.raises(NotFoundError):
        bank.publish("alice", id, artifact("alice"))
    assert files(bank) == []


def test_a_file_removed_while_it_is_published_again(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    id, other = remember(bank, "alice", "one").id, remember(bank, "alice", "two").id
    bank.publish("alice", other, artifact("alice"))
    write, calls = bank._store.write, list[str]()

    def write_and_forget(tenant: str, artifact_id: str, data: bytes) -> None:
        write(tenant, artifact_id, data)
        calls.append(artifact_id)
        if len(calls) == 1:
            bank.forget("alice", other)

    monkeypatch.setattr(bank._store, "write", write_and_forget)
    bank.publish("alice", id, artifact("alice"))
    assert len(calls) == 2
    assert bank.check("alice") == []


def test_fail_keeps_what_the_memory_had(bank: Bank) -> None:
    id = remember(bank, "alice", "one").id
    info = bank.fail("alice", id, "did not converge \ud800")
    assert (info.status, info.error) == ("failed", "did not converge ?")
    assert bank.source("alice", id).text == "one"
    assert bank.search("alice", vector(0), 1)
    info = bank.publish("alice", id, artifact("alice"))
    assert (info.status, info.error) == ("compiled", None)
    info = bank.fail("alice", id, "gate")
    assert (info.status, info.error, info.version) == ("compiled", "gate", 1)


def test_ids_that_name_nothing(bank: Bank) -> None:
    infos = [remember(bank, "alice", f"text {n}") for n in range(40)]
    first = [info.id[0] for info in infos]
    shared = next(digit for digit in first if first.count(digit) > 1)
    with pytest.raises(NotFoundError, match="give more"):
        bank.get("alice", shared)
    for id in ("", "zz", "%", "_", "\ud800", "\0", "0" * 16, "0" * 17, infos[0].id.upper() + "x"):
        for call in (bank.get, bank.source, bank.artifact, bank.forget):
            with pytest.raises(NotFoundError):
                call("alice", id)
        with pytest.raises(NotFoundError):
            bank.fail("alice", id, "x")
        with pytest.raises(NotFoundError):
            bank.publish("alice", id, artifact("alice"))
    with pytest.raises(NotFoundError):
        bank.forget("alice", infos[0].id[:8])  # only get takes the start of an id
    assert len(bank.list("alice")) == 40


@pytest.mark.parametrize("tenant", ["", "x" * 1025, "\ud800", 7, None])
def test_bad_tenants(bank: Bank, tenant: Any) -> None:
    with pytest.raises(ConfigError):
        bank.list(tenant)
    with pytest.raises(ConfigError):
        remember(bank, tenant, "x")


@pytest.mark.parametrize(
    "tenant", ["../../etc", "a/b\\c", "nul\0", "\u0130\u0131", "\U0001f600" * 256, " ", "%"]
)
def test_odd_tenants(bank: Bank, tenant: str) -> None:
    info = remember(bank, tenant, "one")
    bank.publish(tenant, info.id, artifact(tenant))
    assert [i.tenant for i in bank.list(tenant)] == [tenant]
    assert bank.check(tenant) == []
    assert {path.parent.parent for path in bank.path.rglob("*.mka")} == {bank.path / "artifacts"}


def test_bad_input(bank: Bank) -> None:
    text, document = "some text", Document("some text")
    good = vector(0)[None]
    for spans, embeddings in (
        ([], np.empty((0, 8), np.float32)),
        ([Span(0, len(text) + 1)], good),
        ([Span(3, 3)], good),
        ([Span(0, 4)], good[0]),
        ([Span(0, 4)], np.repeat(good, 2, axis=0)),
        ([Span(0, 4)], good * np.nan),
        ([Span(0, 4)], np.empty((1, 0), np.float32)),
    ):
        with pytest.raises(ConfigError):
            bank.remember("alice", document, spans, embeddings)
    for title in ("\ud800", "a\0b"):
        with pytest.raises(DocumentError, match="the title holds a"):
            bank.remember("alice", Document(text, title), [Span(0, 4)], good)
    assert not bank.exists("alice")
    remember(bank, "alice", text)
    for query, k in ((vector(0), 0), (good, 1), (np.full(8, np.inf), 1), (vector(0, 4), 1)):
        with pytest.raises(ConfigError):
            bank.search("alice", query, k)
    with pytest.raises(ConfigError, match="4 dimensions, this tenant's others have 8"):
        bank.remember("alice", Document("other"), [Span(0, 5)], vector(0, 4)[None])
    bank.remember("bob", Document("other"), [Span(0, 5)], vector(0, 4)[None])
    bank.remember("alice", Document("no words"), [Span(0, 5)], np.zeros((1, 8), np.float32))


def test_two_documents_with_one_short_id(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memkit.bank.bank.memory_id_of", lambda *_: "0123456789abcdef")
    remember(bank, "alice", "one")
    with pytest.raises(BankError, match="another document"):
        remember(bank, "alice", "two")


# --- search ----------------------------------------------------------------------------------


def test_search_sees_what_another_bank_object_wrote(bank: Bank) -> None:
    remember(bank, "alice", "one", 0)
    assert len(bank.search("alice", vector(0), 9)) == 1
    with Bank(bank.path) as other:
        two = remember(other, "alice", "two", 1)
        assert bank.search("alice", vector(1), 1)[0].memory_id == two.id
        other.forget("alice")
        assert bank.search("alice", vector(1), 9) == []
        again = remember(other, "alice", "two", 2)
        assert [hit.memory_id for hit in bank.search("alice", vector(2), 9)] == [again.id]


def test_search_ranks_like_numpy(bank: Bank) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((300, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    info = bank.remember("alice", Document("x" * 300), [Span(n, n + 1) for n in range(300)], rows)
    query = rng.standard_normal(16).astype(np.float32)
    hits = bank.search("alice", query, 20, within=info.id)
    assert [hit.chunk for hit in hits] == np.argsort(-(rows @ query))[:20].tolist()
    assert {hit.memory_id for hit in hits} == {info.id}


def test_few_indexes_are_held(bank: Bank) -> None:
    bank._indexes._capacity = 2
    for tenant in "abc":
        remember(bank, tenant, "one")
    for tenant in "abcabc":
        assert len(bank.search(tenant, vector(0), 1)) == 1
    assert list(bank._indexes._indexes) == ["b", "c"]


def test_search_without_faiss(bank: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    remember(bank, "alice", "one")
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match="pip install faiss-cpu"):
        bank.search("alice", vector(0), 1)


# --- forget ----------------------------------------------------------------------------------


def test_forget_one(bank: Bank) -> None:
    id, other = remember(bank, "alice", "one").id, remember(bank, "alice", "two").id
    for n in (1, 2, 3):
        bank.publish("alice", id, artifact("alice", n))
    bank.publish("alice", other, artifact("alice", 3))  # a file that both need
    assert bank.forget("alice", id) == [Receipt(id, artifacts_removed=3, chunks_removed=1)]
    assert [info.id for info in bank.list("alice")] == [other]
    assert len(files(bank)) == 1
    assert bank.check("alice") == []
    with pytest.raises(NotFoundError):
        bank.forget("alice", id)
    assert remember(bank, "alice", "one").version == 0


def test_forget_all_of_a_tenant(bank: Bank) -> None:
    ids = [remember(bank, "alice", f"text {n}").id for n in range(3)]
    kept = remember(bank, "bob", "text 0")
    assert [receipt.memory_id for receipt in bank.forget("alice")] == ids
    assert bank.forget("alice") == bank.forget("nobody") == [] == bank.list("alice")
    assert not bank.exists("alice")
    assert bank.list("bob") == [kept]


def test_forgotten_text_is_gone_from_the_disk(bank: Bank) -> None:
    rng = random.Random(0)
    kept, gone = dict[str, bytes](), list[bytes]()
    for n in range(60):
        mark = f"secret{rng.getrandbits(64):016x}"
        text = f"{mark} " * rng.choice([1, 5, 40, 300])
        info = bank.remember("al1ce", Document(text, mark + "T"), [Span(0, 9)], vector(n)[None])
        kept[info.id] = mark.encode()
        bank.fail("al1ce", info.id, f"{mark} did not converge")
        if n % 2:
            id = rng.choice(list(kept))
            bank.forget("al1ce", id)
            gone.append(kept.pop(id))
    disk = on_disk(bank)
    assert not [mark for mark in gone if mark in disk]
    assert all(mark in disk for mark in kept.values())
    bank.forget("al1ce")
    assert b"secret" not in on_disk(bank)
    assert b"al1ce" not in on_disk(bank)
    with sqlite3.connect(bank.path / "catalog.sqlite3") as database:
        rows = database.execute("SELECT tenant_key, memory_hash, forgotten FROM tombstones").fetchall()
    database.close()
    assert len(rows) == 60
    assert all(len(row[0]) == len(row[1]) == 64 for row in rows)


def test_forget_says_when_a_reader_keeps_the_log(bank: Bank) -> None:
    id = remember(bank, "alice", "some secret").id
    with bank._catalog.read() as connection:
        connection.exec_driver_sql("SELECT count(*) FROM memories").all()
        with pytest.raises(BankBusyError, match="doctor --repair"):
            bank.forget("alice", id)
    assert bank.list("alice") == []
    assert bank.repair()
    assert b"some secret" not in on_disk(bank)


# --- damage and repair -----------------------------------------------------------------------


def test_damaged_files(bank: Bank) -> None:
    ids = [remember(bank, "alice", f"text {n}").id for n in range(4)]
    for n, id in enumerate(ids):
        bank.publish("alice", id, artifact("alice", n))
    paths = [bank._store.local("alice", bank.get("alice", id).artifact_id or "") for id in ids]
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    shutil.copy(paths[3], paths[2])
    for id, reason in zip(ids[:3], ("cannot read", "not a sound", "holds another"), strict=True):
        with pytest.raises(ArtifactError, match=rf"(?s){reason}.*compile and publish it again"):
            bank.artifact("alice", id)
        assert len([p for p in bank.check("alice") if id in p and reason in p]) == 1
    for n, id in enumerate(ids):
        bank.publish("alice", id, artifact("alice", n))
        bank.artifact("alice", id).close()
    assert bank.check("alice") == []
    assert [info.version for info in bank.list("alice")] == [1] * 4


def test_no_artifact_yet(bank: Bank) -> None:
    with pytest.raises(NotFoundError, match="compile it first"):
        bank.artifact("alice", remember(bank, "alice", "one").id)


def test_importing_the_bank_loads_neither_torch_nor_faiss() -> None:
    code = "import sys, memkit.bank; sys.exit(bool({'torch', 'faiss'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, env=ENVIRONMENT)
