"""Backup and restore, and repair of what can be derived."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memkit.bank import Bank, MemoryInfo
from memkit.bank import backup as backups
from memkit.bank.repair import DAMAGED
from memkit.bank.restore import restore
from memkit.document import Document, Span
from memkit.errors import BankBusyError, BankError, ConfigError

QUERY = np.eye(8, dtype=np.float32)[0]


@pytest.fixture
def bank(
    tmp_path: Path, put: Callable[..., MemoryInfo], text_artifact: Callable[..., bytes]
) -> Iterator[Bank]:
    """Three memories of two tenants, one of them with two versions."""
    with Bank(tmp_path / "bank", timeout=0.5) as bank:
        one = put(bank, "alice", "the first text")
        for n in (1, 2):
            bank.publish("alice", one.id, text_artifact("alice", n))
        put(bank, "alice", "the second text", 1)
        put(bank, "bob", "the third text")
        yield bank


def files(bank: Bank) -> list[str]:
    return sorted(path.name for path in (bank.path / "artifacts").rglob("*") if path.is_file())


def everything(bank: Bank) -> list[Any]:
    assert bank.check("alice") == bank.check("bob") == []
    rows = [(info, bank.source(t, info.id).text) for t in ("alice", "bob") for info in bank.list(t)]
    return [*rows, bank.search("alice", QUERY, 9)]


def test_what_was_backed_up_is_restored(bank: Bank, tmp_path: Path) -> None:
    (bank.path / "calibrations").mkdir()
    (bank.path / "calibrations" / "one.json").write_text("{}")
    before, file = everything(bank), tmp_path / "bank.tar"
    assert bank.backup(file) == file.stat().st_size
    bank.forget("alice")
    assert restore(file, tmp_path / "again") == 3
    with Bank(tmp_path / "again") as again:
        assert everything(again) == before
        assert len(again.repair()) == 1  # nothing to remove
    assert (tmp_path / "again" / "calibrations" / "one.json").read_text() == "{}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "bank", "bank.tar"]


def test_a_backup_holds_nothing_that_was_forgotten(bank: Bank, tmp_path: Path) -> None:
    first, second = bank.list("alice")
    bank.backup(tmp_path / "old.tar")
    assert b"the first text" in (tmp_path / "old.tar").read_bytes()
    bank.forget("alice", first.id)
    bank.backup(tmp_path / "new.tar")
    assert b"the first text" not in (tmp_path / "new.tar").read_bytes()
    assert restore(tmp_path / "old.tar", tmp_path / "again", deletions=bank.path) == 2
    with Bank(tmp_path / "again") as again:
        assert again.list("alice") == [second]
        assert list(again.path.rglob("*.mka")) == []


def test_a_memory_that_is_forgotten_while_it_is_copied(
    bank: Bank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, first = backups._add, bank.list("alice")[0]

    def forget_first(archive: tarfile.TarFile, name: str, file: Path) -> str:
        monkeypatch.undo()
        digest = add(archive, name, file)
        bank.forget("alice", first.id)
        return digest

    monkeypatch.setattr(backups, "_add", forget_first)
    bank.backup(tmp_path / "bank.tar")
    assert b"the first text" not in (tmp_path / "bank.tar").read_bytes()
    assert restore(tmp_path / "bank.tar", tmp_path / "again") == 2

    def always(*_: object) -> None:
        raise backups._ChangedError

    monkeypatch.setattr(backups, "_write", always)
    with pytest.raises(BankBusyError, match="try again later"):
        bank.backup(tmp_path / "other.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "bank", "bank.tar"]
    assert list(bank.path.glob(".backup-*")) == []


def members(file: Path) -> dict[str, bytes]:
    with tarfile.open(file) as archive:
        return {m.name: content.read() for m in archive if (content := archive.extractfile(m))}


def pack(file: Path, contents: dict[str, bytes], extra: tarfile.TarInfo | None = None) -> None:
    with tarfile.open(file, "w") as archive:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        if extra is not None:
            archive.addfile(extra)


@pytest.mark.parametrize(
    "damage",
    ["cut", "flip", "no list", "no catalog", "outside", "absolute", "stranger", "link", "newer", "text"],
)
def test_a_bad_backup_makes_nothing(bank: Bank, tmp_path: Path, damage: str) -> None:
    file = tmp_path / "bank.tar"
    bank.backup(file)
    data, contents = bytearray(file.read_bytes()), members(file)
    link = tarfile.TarInfo("artifacts/0123456789abcdef/" + "0" * 64 + ".mka")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    if damage == "cut":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "text":
        file.write_text("not a tar file, but a text")
    else:
        listed = json.loads(contents.pop("memkit-backup.json"))
        if damage == "no catalog":
            del contents["catalog.sqlite3"], listed["files"]["catalog.sqlite3"]
        if damage in ("outside", "absolute", "stranger"):
            name = {"outside": "../up", "absolute": str(tmp_path / "up"), "stranger": "notes.txt"}[damage]
            contents[name] = b"x"
        if damage == "newer":
            listed["format"] = 99
        if damage != "no list":
            contents["memkit-backup.json"] = json.dumps(listed).encode()
        pack(file, contents, link if damage == "link" else None)
    with pytest.raises(BankError, match="not a sound backup"):
        restore(file, tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank", "bank.tar"]


def test_nothing_is_overwritten(bank: Bank, tmp_path: Path) -> None:
    file = tmp_path / "bank.tar"
    bank.backup(file)
    with pytest.raises(ConfigError, match="exists"):
        bank.backup(file)
    with pytest.raises(ConfigError, match="no folder"):
        bank.backup(tmp_path / "absent" / "bank.tar")
    with pytest.raises(ConfigError, match="not empty"):
        restore(file, bank.path)
    with pytest.raises(ConfigError, match="no file"):
        restore(tmp_path / "absent.tar", tmp_path / "again")
    with pytest.raises(ConfigError, match="no bank"):
        restore(file, tmp_path / "again", deletions=tmp_path)


def test_commands(cli: Callable[..., Any], home: Path, tmp_path: Path) -> None:
    file, again = tmp_path / "bank.tar", tmp_path / "again"
    assert cli("backup", file).code == 3  # no bank yet
    cli("remember", "-", stdin=b"Mira lives in Keldor.")
    assert cli("backup", file, "--json").json["bytes"] == file.stat().st_size
    assert cli("backup", file).code == 2
    assert cli("restore", file).code == 2
    restored = cli("restore", file, "--home", again, "--json")
    assert (restored.code, restored.json["memories"]) == (0, 1)
    asked = cli("ask", "Where does Mira live?", "--home", again, "--json")
    assert asked.json["route"] == "text"
    file.write_bytes(b"x")
    assert cli("restore", file, "--home", tmp_path / "other").code == 5


# --- repair ----------------------------------------------------------------------------------
def test_repair_withdraws_damaged_artifacts(bank: Bank) -> None:
    info = bank.list("alice")[0]
    newest = bank._store.local("alice", info.artifact_id or "")
    newest.write_bytes(newest.read_bytes()[:-1])
    done = bank.repair()
    assert done[0] == f"withdrew version 2 of memory {info.id}, whose artifact was damaged"
    left = bank.get("alice", info.id)
    assert (left.version, left.status, "version 2 was damaged" in (left.error or "")) == (1, "compiled", True)
    assert not newest.exists()
    for path in bank.path.rglob("*.mka"):
        path.unlink()
    bank.repair()
    left = bank.get("alice", info.id)
    assert (left.version, left.status, left.artifact_id) == (0, "text", None)
    assert bank.check("alice") == []


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM chunks WHERE memory_id = (SELECT min(id) FROM memories)",
        'UPDATE chunks SET "end" = 999',
        "UPDATE chunks SET embedding = x'00' WHERE memory_id = (SELECT min(id) FROM memories)",
    ],
)
def test_repair_has_unsound_vectors_made_anew(bank: Bank, damage: str) -> None:
    with closing(sqlite3.connect(bank.path / "catalog.sqlite3")) as database:
        database.execute(damage)
        database.commit()
    assert any("made anew" in line for line in bank.repair())
    assert DAMAGED in (bank.embedder("alice"), bank.embedder("bob"))

    def embed(document: Document) -> tuple[list[Span], Any]:
        return [Span(0, len(document.text))], QUERY[None]

    for tenant in ("alice", "bob"):
        if bank.embedder(tenant) == DAMAGED:
            bank.reembed(tenant, "", embed)
    assert len(bank.search("alice", QUERY, 9)) == 2
    assert len(bank.repair()) == 1


def test_a_damaged_catalog_asks_for_a_backup(bank: Bank) -> None:
    for n in range(50):
        bank.remember("alice", Document(f"{n} " * 500), [Span(0, 9)], QUERY[None])
    bank.close()
    file = bank.path / "catalog.sqlite3"
    data = bytearray(file.read_bytes())
    data[8192:40000] = bytes(40000 - 8192)
    file.write_bytes(data)
    with pytest.raises(BankError, match="restore a backup"):
        bank.repair()


def test_repair_removes_what_a_killed_backup_or_compilation_left(bank: Bank) -> None:
    (bank.path / ".backup-killed").mkdir()
    (bank.path / ".backup-killed" / "catalog.sqlite3").write_text("the first text")
    known = bank.checkpoint_path("alice", bank.list("alice")[0].id)
    for path in (known, known.with_name("0" * 16), known.with_name(known.name + ".7.partial")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert len(bank.repair()) == 4
    assert [path.name for path in known.parent.iterdir()] == [known.name]
    assert list(bank.path.glob(".backup-*")) == []


def test_repair_removes_only_old_strays_while_others_write(
    bank: Bank, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = files(bank)
    folder = next((bank.path / "artifacts").iterdir())
    for name in ("0" * 64 + ".mka", ".tmp-killed"):
        (folder / name).write_bytes(b"left behind")
        os.utime(folder / name, (0, 0))
    (folder / ".tmp-in-use").touch()
    (folder / "notes.txt").touch()  # not the bank's
    bank.search("alice", QUERY, 1)
    monkeypatch.setattr("memkit.bank.repair.WAIT", 0.0)
    with bank._store.writing():
        done = bank.repair()
    assert len(done) == 3
    assert ".tmp-killed" in done[0]
    assert "2 tenants" in done[2]
    assert files(bank) == sorted([*used, ".tmp-in-use", "notes.txt"])
    assert ".tmp-in-use" in bank.repair()[0]  # nobody writes now, so that it was left by a killed process
    assert files(bank) == sorted([*used, "notes.txt"])
    assert bank.search("alice", QUERY, 1)
    assert bank.check("alice") == []
