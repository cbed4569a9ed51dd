"""What is attached to an engine has one owner, who counts its users and bounds what nobody uses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memkit.artifact.format import Artifact
from memkit.engine.artifact_cache import ArtifactCache
from memkit.engine.transformers.engine import TransformersEngine
from memkit.memory import Memory
from memkit.models.loading import LoadedModel
from memkit.pipeline.admission import AdmissionConfig
from memkit.testing import TEXT, TINY_LCC

QUESTION = "Where does Mira live?"

FEW = AdmissionConfig(questions=4, pieces=1)


@pytest.fixture
def engine(tiny: LoadedModel) -> TransformersEngine:
    return TransformersEngine(tiny)


@pytest.fixture
def root(tmp_path: Path, engine: TransformersEngine) -> Iterator[Memory]:
    with Memory(tmp_path / "bank", engine=engine, **TINY_LCC, admission=FEW) as made:
        yield made


def publish(memory: Memory, data: bytes) -> None:
    """The same artifact for another user, without compiling it again."""
    from dataclasses import replace

    artifact = Artifact.decode(data)
    mine = artifact.with_manifest(replace(artifact.manifest, tenant=memory.owner))
    memory.bank.publish(memory.owner, memory.remember(TEXT, compile=False).id, mine)


@pytest.fixture
def users(root: Memory) -> list[Memory]:
    """Eighty users, each with an artifact of their own."""
    info = root.remember(TEXT, compile=False)
    data = root.compile_with_cost(info.id)[1].data
    found = [root.for_user(f"user {number}") for number in range(80)]
    for user in found:
        publish(user, data)
    return found


def test_many_users_leave_a_bounded_number_attached(users: list[Memory], engine: TransformersEngine) -> None:
    for user in users:
        assert user.ask(QUESTION, max_tokens=1).route == "latent"
    assert len(engine._attached) == 64
    for user in users:
        user.recall(QUESTION)
    assert len(engine._attached) == 64
    assert not any(held.uses for held in engine._attached._entries.values())


def test_verifying_does_not_take_an_artifact_from_a_question(root: Memory) -> None:
    info = root.remember(TEXT, wait=True)
    pieces = root.stream(QUESTION, max_tokens=4)
    next(pieces)
    assert root.verify(info.id).artifact_id == info.artifact_id
    assert root.get(info.id).artifact_id in root.local._attached
    assert pieces.answer.route == "latent"


def test_questions_beside_verifications(root: Memory) -> None:
    info = root.remember(TEXT, wait=True)
    failed, over = list[BaseException](), threading.Event()

    def verify() -> None:
        while not over.is_set():
            try:
                root.verify(info.id)
            except BaseException as error:
                failed.append(error)

    thread = threading.Thread(target=verify)
    thread.start()
    try:
        routes = {root.ask(QUESTION, max_tokens=2).route for _ in range(8)}
    finally:
        over.set()
        thread.join()
    assert (routes, failed) == ({"latent"}, [])


def test_what_is_forgotten_is_let_go_at_once(root: Memory, engine: TransformersEngine) -> None:
    info = root.remember(TEXT, wait=True)
    assert root.ask(QUESTION, max_tokens=1).route == "latent"
    assert info.artifact_id in engine._attached
    root.forget(info.id)
    assert len(engine._attached) == 0


def test_a_file_is_read_again_only_when_it_changed(root: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    info = root.remember(TEXT, wait=True)
    root.ask(QUESTION, max_tokens=1)
    hashed = list[str]()
    real: Any = vars(Artifact)["id"].fget

    def counted(self: Any) -> Any:
        if self._id is None:
            hashed.append("whole file")
        return real(self)

    monkeypatch.setattr(Artifact, "id", property(counted))
    for _ in range(3):
        assert root.ask(QUESTION, max_tokens=1).route == "latent"
    assert hashed == []
    (file,) = root.bank.path.rglob(f"{info.artifact_id}.mka")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    answer = root.ask(QUESTION, max_tokens=1)
    assert answer.route == "text"
    assert "damaged" in answer.trace.reason
    assert str(root.bank.path) not in answer.trace.reason
    assert str(root.bank.path) not in repr(answer.trace.candidates)


def test_counting() -> None:
    gone = list[str]()
    held = ArtifactCache[int](lambda key, value: gone.append(key), capacity=1)
    held.use("a", lambda: 1, keep=True)
    held.use("a", lambda: 2, keep=True)
    held.use("b", lambda: 3, keep=False)
    assert (held.get("a"), held.get("b"), held.get("c")) == (1, 3, None)
    held.free("b")
    assert gone == ["b"]  # it was not to be kept
    held.free("a")
    held.use("c", lambda: 4, keep=True)
    held.free("c")
    assert gone == ["b"]  # one is spare, and one is in use
    held.free("a")
    assert gone == ["b", "c"] or gone == ["b", "a"]
    held.pin("d", lambda: 5)
    held.use("d", lambda: 5, keep=False)
    held.unpin("d")
    assert "d" in held  # its user is not done
    held.free("d")
    assert "d" not in held
    held.discard("nothing")
    held.free("nothing")
