"""A bank that machines share: PostgreSQL and an S3-compatible store, both real."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from memkit.artifact.format import Artifact
from memkit.bank import Bank, MemoryInfo, Message, Policy, artifact_store_remote
from memkit.bank.artifact_store import name_of
from memkit.bank.owners import Owner
from memkit.bank.restore import restore
from memkit.bank.tables import metadata
from memkit.bank.types import tenant_key
from memkit.document import Document, Span
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import (
    BankBusyError,
    BankError,
    ConfigError,
    MissingExtraError,
    NotFoundError,
)
from memkit.memory import Memory
from memkit.recompile.advice import AdvisorConfig
from memkit.recompile.executors import InProcess
from memkit.recompile.plan import Scope, plan
from memkit.recompile.run import recompile
from memkit.testing import TEXT, TINY_LCC

_spec = importlib.util.spec_from_file_location("servers", Path(__file__).parents[1] / "servers.py")
assert _spec is not None
servers: Any = importlib.util.module_from_spec(_spec)
assert _spec.loader is not None
_spec.loader.exec_module(servers)

needs_postgres = pytest.mark.skipif(servers.programs() is None, reason="PostgreSQL is not installed")
pytestmark = [needs_postgres]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Any]:
    with servers.postgres() as server:
        yield server


@pytest.fixture
def url(postgres: Any) -> str:
    return str(postgres.database(f"bank_{uuid4().hex}"))


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with servers.s3() as address:
        yield address


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_ENDPOINT_URL": s3,
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    return f"s3://memkit/{uuid4().hex}"


@pytest.fixture
def machines(url: str, bucket: str, tmp_path: Path) -> Iterator[tuple[Bank, Bank]]:
    """The same bank, seen from two machines."""
    with (
        Bank(tmp_path / "one", database=url, artifacts=bucket) as one,
        Bank(tmp_path / "two", database=url, artifacts=bucket) as two,
    ):
        yield one, two


Put = Callable[..., MemoryInfo]
Make = Callable[..., bytes]


def test_what_one_machine_writes_the_other_reads(
    machines: tuple[Bank, Bank], put: Put, text_artifact: Make
) -> None:
    one, two = machines
    info = put(one, "alice", "Ada lives in Lima.")
    one.publish("alice", info.id, text_artifact("alice", 1))
    assert two.get("alice", info.id).version == 1
    assert two.source("alice", info.id).text == "Ada lives in Lima."
    with two.artifact("alice", info.id) as artifact:
        assert artifact.manifest.config == {"n": 1}
    assert two.check("alice") == one.check("alice") == []
    (hit,) = two.search("alice", np.eye(8, dtype=np.float32)[0], 1)
    assert hit.memory_id == info.id
    two.publish("alice", info.id, text_artifact("alice", 2))
    with one.artifact("alice", info.id) as artifact:
        assert artifact.manifest.config == {"n": 2}
    assert [v.version for v in one.versions.history("alice", info.id)] == [1, 2]
    with pytest.raises(NotFoundError):
        two.get("bob", info.id)


def test_what_one_machine_forgets_is_gone_from_the_store(
    machines: tuple[Bank, Bank], put: Put, text_artifact: Make
) -> None:
    one, two = machines
    info = put(one, "alice", "Ada lives in Lima.")
    one.publish("alice", info.id, text_artifact("alice", 1))
    artifact_id = one.get("alice", info.id).artifact_id or ""
    two.artifact("alice", info.id).close()
    one.forget("alice", info.id)
    assert not two._store.exists("alice", artifact_id)
    with pytest.raises(NotFoundError):
        two.artifact("alice", info.id)
    assert two.search("alice", np.eye(8, dtype=np.float32)[0], 1) == []


def test_logs_leases_policies_and_keys(machines: tuple[Bank, Bank]) -> None:
    one, two = machines

    def embed(document: Document) -> tuple[list[Span], Any]:
        return [Span(0, len(document.text))], np.ones((1, 4), np.float32)

    when = datetime(2026, 1, 2, tzinfo=UTC)
    info = one.logs.append(
        "alice", "profile", [Message("lives in Lima", when=when), Message("has a dog")], embed
    )
    assert [e.text for e in two.logs.entries("alice", info.id)] == ["lives in Lima", "has a dog"]
    two.logs.append("alice", "profile", [Message("was born in Cork", when=when.replace(year=2025))], embed)
    text = one.source("alice", info.id).text
    assert text.splitlines()[0] == "2025-01-02 user: was born in Cork"
    start = text.index("Lima")
    assert two.deletion.erase("alice", info.id, [Span(start, start + 1)], embed).left == info.id
    assert "Lima" not in one.source("alice", info.id).text
    with one.leases.take("alice", info.id), pytest.raises(BankBusyError):
        two.leases.take("alice", info.id)
    one.policies.set("alice", Policy(max_memories=1, max_characters=10**6, max_bytes=10**9))
    assert two.policies.get("alice").max_memories == 1
    _, secret = one.keys.create("alice")
    assert two.keys.tenant(secret) == "alice"
    two.count_asked("alice", {info.id: 2})
    assert one.get("alice", info.id).asked == 2
    assert one.tenants() == ["alice"]


def test_writers_queue_and_lose_nothing(machines: tuple[Bank, Bank], put: Put) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: put(machines[n % 2], "alice", f"text number {n}"), range(40)))
    assert len(machines[0].list("alice")) == 40


def test_strays_are_removed_once_they_are_old(machines: tuple[Bank, Bank], text_artifact: Make) -> None:
    one, _ = machines
    one.list("alice")
    data = text_artifact("alice", 5)
    one._store.write("alice", Artifact.decode(data).id, data)
    assert len(one.repair()) == 1  # another machine may be about to name it
    assert any("no memory needs" in line for line in one.repair(grace=-1))
    assert not one._store.exists("alice", Artifact.decode(data).id)


def test_a_backup_becomes_a_local_bank(
    machines: tuple[Bank, Bank], put: Put, text_artifact: Make, tmp_path: Path
) -> None:
    one, two = machines
    info = put(one, "alice", "Ada lives in Lima.")
    one.publish("alice", info.id, text_artifact("alice", 1))
    two.backup(tmp_path / "file.tar")
    assert restore(tmp_path / "file.tar", tmp_path / "local") == 1
    with Bank(tmp_path / "local") as local:
        assert local.get("alice", info.id).version == 1
        assert local.check("alice") == []


def test_a_restarted_server_is_an_error_and_then_none(
    postgres: Any, url: str, tmp_path: Path, put: Put
) -> None:
    with Bank(tmp_path, database=url, timeout=2.0) as bank:
        info = put(bank, "alice", "Ada lives in Lima.")
        postgres.stop("immediate")
        with pytest.raises(BankError, match="cannot be reached") as caught:
            bank.list("alice")
        assert "memkit@127.0.0.1" in str(caught.value)
        postgres.start()
        assert [m.id for m in bank.list("alice")] == [info.id]
        put(bank, "alice", "Bo lives in Cork.")


def test_a_server_that_stops_in_mid_recompile_loses_nothing(
    postgres: Any, url: str, tmp_path: Path, engine: Any
) -> None:
    scope, stopped = Scope(advisor=AdvisorConfig(enabled=False)), list[int]()
    with Memory(tmp_path, engine=engine, **TINY_LCC, database=url) as memory:
        memory.for_user("mira").remember(TEXT, compile=False)

        def look(task: Any) -> Any:
            def step(done: Any) -> None:
                if not stopped:
                    stopped.append(done.step)
                    postgres.stop("immediate")

            return step

        (outcome,) = recompile(plan(memory, scope), scope, InProcess(memory, look)).outcomes
        assert (outcome.status, "cannot be reached" in outcome.reason) == ("failed", True)
        postgres.start()
        (info,) = memory.bank.list("mira")
        assert (info.version, info.status) == (0, "text")
        memory.bank.leases.clear("mira", info.id)
        (outcome,) = recompile(plan(memory, scope), scope, InProcess(memory)).outcomes
        assert outcome.status == "compiled"


def test_a_store_that_refuses_writes_changes_nothing(
    url: str, bucket: str, tmp_path: Path, put: Put, text_artifact: Make
) -> None:
    with Bank(tmp_path, database=url, artifacts="s3://no-such-bucket-anywhere/x") as bank:
        info = put(bank, "alice", "Ada lives in Lima.")
        with pytest.raises(BankError, match="artifact store"):
            bank.publish("alice", info.id, text_artifact("alice", 1))
        assert bank.get("alice", info.id).version == 0


def test_wrong_places_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for bad in ("nonsense", "sqlite:///x", "mysql://a@b/c"):
        with pytest.raises(ConfigError):
            Bank(tmp_path, database=bad)
    with Bank(tmp_path, database="postgresql+psycopg://u:secret@127.0.0.1:9/none", timeout=1.0) as bank:
        with pytest.raises(BankError, match="cannot be reached") as caught:
            bank.list("alice")
        assert "secret" not in str(caught.value)
    with pytest.raises((ConfigError, MissingExtraError)):
        Bank(tmp_path, artifacts="nonsense://x")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtraError, match=r"memkit-llm\[s3\]"):
        Bank(tmp_path, artifacts="s3://x/y")


def test_a_nul_is_called_that(url: str, tmp_path: Path) -> None:
    with Bank(tmp_path, database=url) as bank:
        for call in (bank.keys.create, bank.keys.list):
            with pytest.raises(ConfigError, match="NUL"):
                call("a\0b")
        assert bank.keys.create("ab")[0].tenant == "ab"


# --- names, byte by byte -----------------------------------------------------------------------
ALIKE = (
    "app",
    "App",
    "àpp",
    "a\u0300pp",
    "ａｐｐ",
    "app ",
    "a%p",
    "a_p",
    "app\u200b",
    "ı",
    "i",
    "I",
    "ß",
    "ss",
)


def owners(name: str) -> list[Owner]:
    return [Owner(name), Owner(name, namespace=("n",)), Owner(name, "acme"), Owner(tenant=name)]


def columns(bank: Bank) -> dict[tuple[str, str], str | None]:
    """The collation of each column of names."""
    query = (
        "SELECT table_name, column_name, collation_name FROM information_schema.columns "
        "WHERE table_schema = 'public' AND data_type = 'text' AND column_name IN ('tenant', 'key')"
    )
    with bank._catalog.read() as connection:
        return {(row[0], row[1]): row[2] for row in connection.exec_driver_sql(query)}


def test_names_have_no_collation(url: str, tmp_path: Path) -> None:
    with Bank(tmp_path / "one", database=url) as bank:
        bank.tenants()
        found = columns(bank)
    assert ("memories", "tenant") in found
    assert ("items", "key") in found
    assert ("entries", "key") in found
    assert set(found.values()) == {"C"}


def test_an_older_catalog_loses_its_collation(url: str, tmp_path: Path, put: Put) -> None:
    with Bank(tmp_path / "one", database=url) as bank:
        put(bank, "App", "Ada lives in Lima.\n")
        with bank._catalog.write() as connection:  # as revision 6 left it, in a database of that collation
            run = connection.exec_driver_sql
            run("CREATE COLLATION alike (provider = icu, locale = 'und-u-ks-level1', deterministic = false)")
            run("DROP TABLE waiting")
            run("DROP INDEX memories_identity")
            for table, column in (("memories", "identity"), ("entries", "zone"), ("api_keys", "scope")):
                run(f"ALTER TABLE {table} DROP COLUMN {column}")
            for table, column in columns(bank):
                if table != "waiting":
                    run(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE text COLLATE alike")
            run("UPDATE alembic_version SET version_num = '6'")
            tenants = run("SELECT count(*) FROM memories WHERE tenant = 'app'").scalar()
            assert tenants == 1, "the test needs a collation for which the names are equal"
    with Bank(tmp_path / "one", database=url) as bank:
        assert set(columns(bank).values()) == {"C"}
        assert bank.list("app") == []
        (info,) = bank.list("App")
        assert put(bank, "App", "Ada lives in Lima.").id == info.id  # it looks the same
        with bank._catalog.read() as connection:
            assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_users_that_look_alike_do_not_meet(url: str, tmp_path: Path, engine: TransformersEngine) -> None:
    with Memory(tmp_path / "one", engine=engine, database=url) as root:
        for name in ALIKE:
            for whose in (
                Owner(name),
                Owner(name, namespace=("n",)),
                Owner(name, "acme"),
                Owner(tenant=name),
            ):
                root.for_user(whose).remember(f"{whose.name} has a dog.", compile=False)
                root.bank.keys.create(whose.name)
        for name in ALIKE:
            for whose in (
                Owner(name),
                Owner(name, namespace=("n",)),
                Owner(name, "acme"),
                Owner(tenant=name),
            ):
                mine = root.for_user(whose)
                (info,) = mine.list_memories()
                assert mine.bank.source(whose.name, info.id).text == f"{whose.name} has a dog."
                assert {found.memory.id for found in mine.search("Who has a dog?", 8)} == {info.id}
                assert len(root.bank.keys.list(whose.name)) == 1
            assert root.bank.tenants_with_prefix(Owner(name).namespaces) == [
                Owner(name, namespace=("n",)).name
            ]
            assert root.bank.items.spaces(name) == []
        root.for_user(ALIKE[0]).forget_all()
        assert len(root.bank.tenants()) == 4 * len(ALIKE) - 2


# --- a cache of artifacts that several processes use -------------------------------------------
def test_a_bad_copy_withdraws_no_good_artifact(
    machines: tuple[Bank, Bank], put: Put, text_artifact: Make
) -> None:
    one, two = machines
    info = put(one, "alice", "Ada lives in Lima.")
    one.publish("alice", info.id, text_artifact("alice", 1))
    artifact_id = one.get("alice", info.id).artifact_id or ""
    for repair in (False, True):
        copy = one._store.local("alice", artifact_id)
        copy.write_bytes(b"damaged" + copy.read_bytes()[7:])
        if repair:
            assert not any("withdrew" in done for done in one.repair())
        with one.artifact("alice", info.id) as artifact:  # fetched anew
            assert artifact.manifest.config == {"n": 1}
    assert two.get("alice", info.id).version == 1
    two._store._fs.pipe_file(two._store._key(name_of("alice", artifact_id)), b"damaged")  # type: ignore[attr-defined]
    assert any("withdrew" in done for done in two.repair())
    assert one.get("alice", info.id).version == 0


def test_files_of_others_come_and_go_in_the_cache(
    machines: tuple[Bank, Bank], put: Put, text_artifact: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = machines
    infos = [put(one, "alice", f"Ada has {n} dogs.") for n in range(4)]
    monkeypatch.setattr(artifact_store_remote, "CACHE_BYTES", 1)
    folder = one._store._cache / tenant_key("alice")[:16]  # type: ignore[attr-defined]
    folder.mkdir(parents=True)
    writing = folder / ".tmp-of-another-process"
    writing.write_bytes(b"x" * 1000)
    real = Path.stat

    def stat(path: Path, **how: Any) -> Any:
        found = real(path, **how)
        if path.suffix == ".mka" and path.parent == folder:  # another process pushes it out just now
            path.unlink()
            real(path, **how)
        return found

    one.publish("alice", infos[0].id, text_artifact("alice", 0))
    monkeypatch.setattr(Path, "stat", stat)
    for number, info in enumerate(infos[1:], 1):
        assert one.publish("alice", info.id, text_artifact("alice", number)).version == 1
    assert writing.exists()
