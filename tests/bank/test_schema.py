"""Migrations: a bank of any earlier memkit opens, and is then as one that was made today."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from memkit.artifact.format import Artifact
from memkit.bank import Bank, MemoryInfo, schema
from memkit.bank.tables import metadata
from memkit.bank.types import tenant_key
from memkit.errors import BankError, MissingExtraError

OLD = Path(__file__).parents[1] / "data" / "bank_schema_2.sql"  # a bank of memkit before migrations, as SQL


@pytest.fixture
def old(tmp_path: Path, text_artifact: Callable[..., bytes]) -> Path:
    """A bank's folder as memkit left it before there were migrations."""
    folder = tmp_path / "bank"
    files = folder / "artifacts" / tenant_key("alice")[:16]
    files.mkdir(parents=True)
    with closing(sqlite3.connect(folder / "catalog.sqlite3")) as database:
        database.executescript(OLD.read_text())
    for n in (1, 2):
        data = text_artifact("alice", n)
        (files / f"{Artifact.decode(data).id}.mka").write_bytes(data)
    return folder


def dump(folder: Path) -> list[str]:
    with closing(sqlite3.connect(folder / "catalog.sqlite3")) as database:
        return list(database.iterdump())


def test_an_old_bank_opens_with_all_it_has(old: Path, put: Callable[..., MemoryInfo]) -> None:
    with Bank(old) as bank:
        ada, bo = bank.list("alice")
        assert (ada.title, ada.status, ada.version, ada.compiler) == ("title 0", "compiled", 2, "none")
        assert (bo.status, bo.error) == ("failed", "did not converge")
        assert bank.source("bob", bank.list("bob")[0].id).text == "Cy lives in Lima."
        assert bank.embedder("alice") == "lexical:4:1"  # words are told apart in another way since
        assert bank.search("bob", np.eye(4, dtype=np.float32)[2], 1)[0].score == 1.0
        assert bank.check("alice") == []
        with bank.artifact("alice", ada.id) as artifact:
            assert artifact.manifest.config == {"n": 2}
        assert len(bank.forget("alice", ada.id)) == 1
        put(bank, "carol", "Dee lives in Cork.")
    with Bank(old) as bank:
        assert [len(bank.list(tenant)) for tenant in ("alice", "bob", "carol")] == [1, 1, 1]


def test_migrated_and_new_banks_are_alike(old: Path, tmp_path: Path) -> None:
    with Bank(old) as bank, Bank(tmp_path / "new") as new:
        bank.list("alice"), new.list("alice")
        for each in (bank, new):
            with each._catalog.read() as connection:
                assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    shapes = [
        sorted(
            (row[1], row[2].upper(), row[3]) for table in metadata.tables for row in columns(folder, table)
        )
        for folder in (old, tmp_path / "new")
    ]
    assert shapes[0] == shapes[1]


def columns(folder: Path, table: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(folder / "catalog.sqlite3")) as database:
        return database.execute(f"PRAGMA table_info({table})").fetchall()


def test_every_revision_is_listed_in_order() -> None:
    scripts = ScriptDirectory(str(Path(schema.__file__).parent / "migrations"))
    assert [script.revision for script in scripts.walk_revisions()][::-1] == list(schema.REVISIONS)


def test_a_bank_from_before_embedders_were_noted(old: Path) -> None:
    with closing(sqlite3.connect(old / "catalog.sqlite3")) as database:
        database.executescript("DROP TABLE embedders; PRAGMA user_version=1;")
    with Bank(old) as bank:
        assert bank.embedder("alice") == ""


def test_a_migration_that_fails_changes_nothing(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, migrate = dump(old), schema.migrate

    def fail(connection: Any) -> None:
        migrate(connection)
        raise BankError("the power went")

    monkeypatch.setattr(schema, "migrate", fail)
    with Bank(old) as bank, pytest.raises(BankError, match="power"):
        bank.list("alice")
    assert dump(old) == before
    monkeypatch.undo()
    with Bank(old) as bank:
        assert len(bank.list("alice")) == 2


def test_many_processes_migrate_once(old: Path) -> None:
    code = "import sys; from memkit.bank import Bank; print(len(Bank(sys.argv[1]).list('alice')))"
    command = [sys.executable, "-c", code, str(old)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert [worker.communicate(timeout=60)[0] for worker in workers] == ["2\n"] * 4


def test_alembic_is_needed_only_by_old_banks(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "alembic", None)
    with Bank(tmp_path / "new") as bank:
        assert bank.list("alice") == []
    with Bank(old) as bank, pytest.raises(MissingExtraError, match="pip install alembic"):
        bank.list("alice")
