"""Versions of artifacts: history, difference, rollback, pins, pruning, and bundles between banks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it ships no types
import numpy as np
import pytest

from memkit.artifact.format import Artifact, Manifest
from memkit.artifact.signing import Signer, generate, trusted_keys
from memkit.bank import Bank, CompiledFrom, MemoryInfo, Message
from memkit.bank.bundle import export, load
from memkit.bank.diff import difference
from memkit.document import Document, Span
from memkit.errors import ArtifactError, ConfigError, FingerprintError, NotFoundError, VerificationError

DAY = datetime(2026, 3, 1, tzinfo=UTC)


def embed(document: Document) -> tuple[list[Span], Any]:
    return [Span(0, len(document.text))], np.ones((1, 8), np.float32)


def verified(fidelity: float) -> bytes:
    manifest = Manifest("text", "none", "1", {}, 0, "f", 0, "mira", (), verification={"fidelity": fidelity})
    return Artifact.encode(manifest, {})


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with Bank(tmp_path / "bank") as bank:
        yield bank


@pytest.fixture
def running(bank: Bank) -> MemoryInfo:
    """Two versions: of the first entry, and of both."""
    info = bank.logs.append("mira", "profile", [Message("One.", when=DAY)], embed)
    bank.publish("mira", info.id, verified(0.5), CompiledFrom(1, seconds=2.0, flops=3.0))
    bank.logs.append("mira", "profile", [Message("Two.", "nurse", DAY)], embed)
    return bank.publish("mira", info.id, verified(0.75), CompiledFrom(2))


def test_history_and_difference(bank: Bank, running: MemoryInfo) -> None:
    one, two = bank.versions.history("mira", running.id)
    assert (one.version, one.current, one.through, one.seconds, one.flops) == (1, False, 1, 2.0, 3.0)
    assert (two.version, two.current, two.through, two.fingerprint) == (2, True, 2, "f")
    found = difference(bank, "mira", running.id, 1, 2)
    assert ([e.text for e in found.added], found.removed) == (["Two."], ())
    assert found.fidelity["fidelity"] == (0.5, 0.75)
    back = difference(bank, "mira", running.id, 2, 1)
    assert [e.text for e in back.removed] == ["Two."]
    with pytest.raises(NotFoundError, match="no version 3"):
        difference(bank, "mira", running.id, 1, 3)


def test_rollback(bank: Bank, running: MemoryInfo) -> None:
    info = bank.versions.rollback("mira", running.id, 1)
    assert (info.version, info.behind) == (1, 1)
    with bank.artifact("mira", info.id) as current, bank.artifact("mira", info.id, 2) as other:
        assert (current.manifest.verification["fidelity"], other.manifest.verification["fidelity"]) == (
            0.5,
            0.75,
        )
    with pytest.raises(NotFoundError, match="there are: 1, 2"):
        bank.versions.rollback("mira", info.id, 7)
    assert bank.publish("mira", info.id, verified(0.9), CompiledFrom(2)).version == 3


def test_a_pinned_version_stays(bank: Bank, running: MemoryInfo) -> None:
    bank.versions.rollback("mira", running.id, 1)
    assert bank.versions.pin("mira", running.id).pinned
    info = bank.publish("mira", running.id, verified(0.9), CompiledFrom(2))
    assert (info.version, len(bank.versions.history("mira", info.id))) == (1, 3)
    assert not bank.versions.pin("mira", info.id, False).pinned
    assert bank.publish("mira", info.id, verified(0.95), CompiledFrom(2)).version == 4
    other = bank.logs.append("mira", "other", [Message("One.")], embed)
    with pytest.raises(ConfigError, match="compile it first"):
        bank.versions.pin("mira", other.id)


def test_prune_keeps_the_newest_and_the_current(bank: Bank, running: MemoryInfo) -> None:
    for n in range(3):
        bank.publish("mira", running.id, verified(n / 10), CompiledFrom(2))
    bank.versions.rollback("mira", running.id, 1)
    assert bank.versions.prune("mira", running.id, 2) == 2
    assert [v.version for v in bank.versions.history("mira", running.id)] == [1, 4, 5]
    assert len(list(bank.path.rglob("*.mka"))) == 3
    assert bank.check("mira") == []
    with pytest.raises(ConfigError, match="at least one"):
        bank.versions.prune("mira", running.id, 0)


def test_another_tenants_versions_are_unknown(bank: Bank, running: MemoryInfo) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: bank.versions.history("jalo", running.id),
        lambda: bank.versions.rollback("jalo", running.id, 1),
        lambda: bank.versions.pin("jalo", running.id),
        lambda: bank.versions.prune("jalo", running.id, 1),
        lambda: bank.logs.entries("jalo", running.id),
        lambda: bank.artifact("jalo", running.id, 1),
    ]
    for call in calls:
        with pytest.raises(NotFoundError):
            call()


# --- bundles ---------------------------------------------------------------------------------
@pytest.fixture
def keys(tmp_path: Path) -> tuple[Signer, Any]:
    private, public = generate(tmp_path / "key")
    return Signer.from_file(private), trusted_keys([public])


def test_a_bundle_carries_a_memory_to_another_bank(
    bank: Bank, running: MemoryInfo, tmp_path: Path, keys: tuple[Signer, Any]
) -> None:
    signer, trusted = keys
    document = bank.remember("mira", Document("A text.", "notes"), *embed(Document("A text.")))
    bank.publish("mira", document.id, verified(0.1))
    bank.logs.append("mira", "profile", [Message("Three.")], embed)
    bundles = [export(bank, "mira", each, signer) for each in (running.id, document.id)]
    with Bank(tmp_path / "other") as other:
        for data in bundles:
            load(other, "mira", data, trusted, embed, embedder="", fingerprint="f")
        log, text = other.logs.find("mira", "profile"), other.get("mira", document.id)
        assert log is not None
        assert (log.version, log.entries, log.behind, text.version, text.title) == (1, 3, 1, 1, "notes")
        assert other.source("mira", log.id) == bank.source("mira", running.id)
        assert other.check("mira") == []
        with pytest.raises(ConfigError, match="forget it first"):
            load(other, "mira", bundles[0], trusted, embed, embedder="")


def test_bundles_that_are_refused(
    bank: Bank, running: MemoryInfo, tmp_path: Path, keys: tuple[Signer, Any]
) -> None:
    signer, trusted = keys
    data = export(bank, "mira", running.id, signer)
    stranger = trusted_keys([generate(tmp_path / "stranger")[1]])
    outer = msgpack.unpackb(data)
    outer["payload"] = outer["payload"].replace(b"One.", b"Ten.")
    altered, truncated = msgpack.packb(outer), data[:-9]
    unsigned = msgpack.packb({**outer, "signature": None})
    newer = msgpack.packb({**outer, "format": 2})
    with Bank(tmp_path / "other") as other:
        for bundle, keys_, tenant, fingerprint, error in (
            (data, stranger, "mira", None, VerificationError),
            (altered, trusted, "mira", None, VerificationError),
            (unsigned, trusted, "mira", None, VerificationError),
            (truncated, trusted, "mira", None, ArtifactError),
            (newer, trusted, "mira", None, ArtifactError),
            (b"x", trusted, "mira", None, ArtifactError),
            (data, trusted, "jalo", None, ConfigError),
            (data, trusted, "mira", "another", FingerprintError),
        ):
            with pytest.raises(error):
                load(other, tenant, bundle, keys_, embed, embedder="", fingerprint=fingerprint)
        assert other.list("mira") == other.list("jalo") == []
    with pytest.raises(NotFoundError, match="compile it first"):
        export(bank, "mira", bank.logs.append("mira", "new", [Message("One.")], embed).id, signer)


def test_commands(cli: Callable[..., Any], compiled: str, tmp_path: Path) -> None:
    shown = cli("history", compiled, "--json")
    assert [(v["version"], v["current"]) for v in shown.json["versions"]] == [(1, True)]
    assert "current" in cli("history", compiled).out
    assert cli("rollback", compiled, "1").code == 0
    assert cli("rollback", compiled, "9").code == 3
    assert "pinned to version 1" in cli("pin", compiled).out
    assert cli("pin", compiled, "--off", "--json").json["memory"]["pinned"] is False
    compared = cli("diff", compiled, "1", "1", "--json").json
    assert compared["fidelity"]["fidelity"][0] == compared["fidelity"]["fidelity"][1] is not None
    key, file, other = tmp_path / "key", tmp_path / "one.mkb", tmp_path / "other"
    assert cli("keygen", key).code == 0
    assert cli("export", compiled, file, "--key", key).code == 0
    assert cli("export", compiled, file, "--key", key).code == 2  # exists
    words = ("import", file, "--home", other)
    assert cli(*words).code == 2  # trusts nobody
    assert cli(*words, "--trust", f"{key}.pub", "--user", "jalo").code == 2
    assert cli(*words, "--trust", f"{key}.pub").code == 0
    assert cli("ask", "Where does Mira live?", "--home", other, "--json").json["route"] == "latent"
