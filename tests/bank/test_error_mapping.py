"""The bank on full, read-only and foreign disks, among threads and processes, and under kill -9."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import event

from memkit.artifact.format import Artifact, Manifest
from memkit.bank import Bank, MemoryInfo
from memkit.bank.catalog import Catalog
from memkit.document import Document, Span
from memkit.errors import BankBusyError, BankError, BankFullError, BankReadOnlyError

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
PRELUDE = """
import sys, numpy as np
from pathlib import Path
from memkit.artifact.format import Artifact, Manifest
from memkit.bank import Bank
from memkit.document import Document, Span
bank = Bank(Path(sys.argv[1]), timeout=60)
def remember(tenant, text):
    return bank.remember(tenant, Document(text), [Span(0, len(text))], np.eye(1, 8, dtype="float32"))
def artifact(tenant, n):
    return Artifact.encode(Manifest("text", "none", "1", {"n": n}, 0, "f", 0, tenant, ()), {})
"""


def vector(index: int, dim: int = 8) -> np.ndarray[Any, np.dtype[np.float32]]:
    vector: np.ndarray[Any, np.dtype[np.float32]] = np.eye(dim, dtype=np.float32)[index % dim]
    return vector


def artifact(tenant: str, n: int = 0) -> bytes:
    return Artifact.encode(Manifest("text", "none", "1", {"n": n}, 0, "f", 0, tenant, ()), {})


def remember(bank: Bank, tenant: str, text: str, index: int = 0) -> MemoryInfo:
    return bank.remember(tenant, Document(text, "a title"), [Span(0, len(text))], vector(index)[None])


def files(bank: Bank) -> list[str]:
    return sorted(path.name for path in (bank.path / "artifacts").rglob("*") if path.is_file())


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with Bank(tmp_path / "bank", timeout=0.2) as bank:
        yield bank


# --- failures of the disk and the database ---------------------------------------------------


@pytest.fixture
def denied(bank: Bank) -> Iterator[Callable[[int], Path]]:
    """Copies the bank, takes its write permissions away and gives up the right to override them."""
    if os.name == "nt":
        pytest.skip("permissions work differently there")
    folder = Path(tempfile.mkdtemp())

    def deny(folder_mode: int) -> Path:
        shutil.copytree(bank.path, folder / "bank")
        folder.chmod(0o755)
        for path in (folder / "bank").rglob("*"):
            path.chmod(0o555 if path.is_dir() else 0o444)
        (folder / "bank").chmod(folder_mode)
        if os.geteuid() == 0:
            os.seteuid(65534)
        return folder / "bank"

    yield deny
    if os.getuid() == 0:
        os.seteuid(0)
    for path in (folder / "bank", *(folder / "bank").rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize("folder_mode", [0o555, 0o777])
def test_a_read_only_bank_can_be_read(bank: Bank, denied: Callable[[int], Path], folder_mode: int) -> None:
    id = remember(bank, "alice", "one").id
    bank.publish("alice", id, artifact("alice"))
    expected = bank.list("alice")
    bank.close()
    with Bank(denied(folder_mode)) as frozen:
        assert frozen.list("alice") == expected
        assert frozen.source("alice", id).text == "one"
        assert frozen.search("alice", vector(0), 1)[0].memory_id == id
        assert frozen.check("alice") == []
        frozen.artifact("alice", id).close()
        for write in (
            lambda: remember(frozen, "alice", "two"),
            lambda: frozen.publish("alice", id, artifact("alice", 2)),
            lambda: frozen.fail("alice", id, "x"),
            lambda: frozen.forget("alice"),
            lambda: frozen.repair(),
        ):
            with pytest.raises(BankReadOnlyError, match="writable for this user"):
                write()


def test_a_read_only_bank_that_was_not_closed(bank: Bank, denied: Callable[[int], Path]) -> None:
    remember(bank, "alice", "one")
    folder = denied(0o755)
    if os.getuid() == 0:
        os.seteuid(0)
    folder.chmod(0o755)
    (folder / "catalog.sqlite3-shm").unlink()
    folder.chmod(0o555)
    if os.getuid() == 0:
        os.seteuid(65534)
    with Bank(folder) as frozen, pytest.raises(BankReadOnlyError, match="was not closed"):
        frozen.list("alice")


def test_a_folder_that_cannot_be_made(bank: Bank, denied: Callable[[int], Path]) -> None:
    remember(bank, "alice", "one")
    folder = denied(0o555)
    with Bank(folder / "artifacts" / "deeper") as none, pytest.raises(BankReadOnlyError):
        none.list("alice")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_under_the_artifacts(bank: Bank, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    id = remember(bank, "alice", "one").id
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(BankFullError, match="no space is left"):
        bank.publish("alice", id, artifact("alice"))
    assert files(bank) == []
    assert bank.get("alice", id).status == "text"


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.EROFS, BankReadOnlyError), (errno.EACCES, BankReadOnlyError), (errno.EIO, BankError)],
)
def test_a_failing_disk_under_the_artifacts(
    bank: Bank, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[BankError]
) -> None:
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    id = remember(bank, "alice", "one").id
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(expected) as caught:
        bank.publish("alice", id, artifact("alice"))
    assert type(caught.value) is expected


def test_a_full_database(bank: Bank) -> None:
    id = remember(bank, "alice", "one").id
    assert isinstance(bank._catalog, Catalog)
    engine = bank._catalog._open()

    def limit(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute("PRAGMA max_page_count=20")

    event.listen(engine, "checkout", limit)
    with pytest.raises(BankFullError, match="all that was there before is"):
        remember(bank, "alice", "x" * 10**6)
    assert [info.id for info in bank.list("alice")] == [id]
    event.remove(engine, "checkout", limit)
    bank.close()
    assert remember(bank, "alice", "x" * 10**6).characters == 10**6


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a small file system")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    code = PRELUDE + (
        "from memkit.errors import BankFullError\n"
        "first = remember('a', 'one').id\n"
        "for n in range(100):\n"
        "    try:\n"
        "        info = remember('a', f'{n} ' * 9000)\n"
        "        bank.publish('a', info.id, artifact('a', 'x' * 9000 + str(n)))\n"
        "    except BankFullError:\n"
        "        break\n"
        "else:\n"
        "    sys.exit('never full')\n"
        "assert bank.check('a') == [] and bank.source('a', first).text == 'one' and len(bank.list('a')) > 2\n"
        "print('full')\n"
    )
    mount = f'mount -t tmpfs -o size=900k none "{tmp_path}" || exit 77; exec "$0" -c "$1" "{tmp_path}/bank"'
    command = ["unshare", "-m", "sh", "-c", mount, sys.executable, code]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip("may not mount here")
    assert (done.stdout, done.returncode) == ("full\n", 0), done.stderr


def test_a_locked_database(bank: Bank) -> None:
    remember(bank, "alice", "one")
    other = sqlite3.connect(bank.path / "catalog.sqlite3", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    with pytest.raises(BankBusyError, match="longer timeout"):
        remember(bank, "alice", "two")
    assert 0.1 < time.monotonic() - started < 5
    assert len(bank.list("alice")) == 1  # readers do not wait
    other.execute("ROLLBACK")
    other.close()
    remember(bank, "alice", "two")


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        ("CREATE TABLE notes (text)", "not a memkit bank"),
        (
            "CREATE TABLE alembic_version (version_num); INSERT INTO alembic_version VALUES ('999')",
            "made by a newer memkit",
        ),
        (None, "not a memkit bank, or is damaged"),
    ],
)
def test_databases_that_are_not_ours(bank: Bank, prepare: str | None, reason: str) -> None:
    path = bank.path / "catalog.sqlite3"
    path.parent.mkdir()
    if prepare is None:
        path.write_bytes(b"plain text, not a database. " * 100)
    else:
        database = sqlite3.connect(path)
        database.executescript(prepare)
        database.close()
    before = path.read_bytes()
    with pytest.raises(BankError, match=reason):
        bank.list("alice")
    assert path.read_bytes() == before


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "bank"):
        with Bank(path) as bank, pytest.raises(BankError, match="give another path"):
            bank.list("alice")


# --- threads, processes, kills ---------------------------------------------------------------


def test_threads(bank: Bank) -> None:
    assert isinstance(bank._catalog, Catalog)
    bank._catalog._timeout = 30
    failures = list[BaseException]()

    def work(tenant: str) -> None:
        try:
            for n in range(10):
                id = remember(bank, tenant, f"text {n}", n).id
                bank.publish(tenant, id, artifact(tenant, n))
                assert {hit.memory_id for hit in bank.search(tenant, vector(n), 99)} == {
                    info.id for info in bank.list(tenant)
                }
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(tenant,)) for tenant in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert all(len(bank.list(tenant)) == 10 for tenant in "abcd")


def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    code = PRELUDE + (
        "me = sys.argv[2]\n"
        "for n in range(20):\n"
        "    for tenant in ('shared', me):\n"
        "        id = remember(tenant, f'{me} {n}').id\n"
        "        bank.publish(tenant, id, artifact(tenant, f'{me} {n}'))\n"
        "    remember('shared', f'both {n}')\n"
        "    if n % 4 == 3: bank.forget(me, id)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "bank")]
    workers = [subprocess.Popen([*command, name], env=ENVIRONMENT) for name in ("one", "two")]
    assert [worker.wait(120) for worker in workers] == [0, 0]
    with Bank(tmp_path / "bank") as bank:
        counts = {tenant: len(bank.list(tenant)) for tenant in ("shared", "one", "two")}
        assert counts == {"shared": 60, "one": 15, "two": 15}
        assert len(bank.search("shared", vector(0), 999)) == 60
        for tenant, count in {"shared": 40, "one": 15, "two": 15}.items():
            assert sum(info.version for info in bank.list(tenant)) == count
            assert bank.check(tenant) == []
        bank.repair(grace=0)
        assert len(files(bank)) == 70


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="has no SIGKILL")
def test_killed_writers_leave_the_old_state_or_the_new(tmp_path: Path) -> None:
    code = PRELUDE + (
        "for n in range(10**6):\n"
        "    text = f'{sys.argv[2]} {n} ' + 'x' * 20000\n"
        "    id = remember('a', text).id\n"
        "    print('remembered', id, flush=True)\n"
        "    bank.publish('a', id, artifact('a', text))\n"
        "    print('published', id, flush=True)\n"
        "    if n % 3 == 1:\n"
        "        print('forgetting', id, flush=True)\n"
        "        bank.forget('a', id)\n"
        "        print('forgot', id, flush=True)\n"
    )
    rng, said = random.Random(5), dict[str, str]()
    for run in range(4):
        command = [sys.executable, "-c", code, str(tmp_path / "bank"), str(run)]
        with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as writer:
            lines = [writer.stdout.readline()] if writer.stdout else []
            time.sleep(rng.uniform(0.02, 0.4))
            writer.kill()
            lines += writer.stdout.readlines() if writer.stdout else []
        said.update((line.split()[1], line.split()[0]) for line in lines if line.endswith("\n"))
        with Bank(tmp_path / "bank") as bank:
            infos = {info.id: info for info in bank.list("a")}
            assert bank.check("a") == []
            assert {hit.memory_id for hit in bank.search("a", vector(0), 9999)} == set(infos)
            for id, word in said.items():
                if word in ("remembered", "published"):
                    assert infos[id].version >= (word == "published")
                    assert len(bank.source("a", id).text) > 20000
                assert word != "forgot" or id not in infos
            bank.repair(grace=0)
            assert len(files(bank)) == sum(info.version for info in infos.values())
    assert len(said) > 8
