"""Several SGLang servers over one bank, with large pages and chunked prefill; and the commands."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sglang_kit import Served, artifact_of, serving

from memkit.artifact.format import Artifact
from memkit.bench.sglang_process import Server
from memkit.engine.base import Request
from memkit.engine.sglang.plugin.header import AXES
from memkit.engine.sglang.plugin.server_args import ServerFlags, prepare
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import EngineError
from memkit.memory import Memory
from memkit.models.loading import LoadedModel
from memkit.testing import TEXT, TINY_OPTIONS

pytestmark = pytest.mark.sglang
PAGE = 16
QUESTIONS = ["Where does Mira live?", "Who works at Brimtek?"]


@pytest.fixture(scope="module")
def pair(tiny: LoadedModel, environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two servers with pages of 16 tokens, which read at most 32 at once and have room for 512."""
    folder, flags = tmp_path_factory.mktemp("pair"), ServerFlags(page=PAGE, hidden_states=False)
    small = ["--chunked-prefill-size", "32", "--max-total-tokens", "512"]
    with serving(folder, tiny, flags, 2, small, attempts=8) as made:
        yield made


@pytest.fixture(scope="module")
def padded(pair: Served) -> list[Artifact]:
    """Memories of one page, of three, and of three times as many tokens as the text has."""
    return [
        pair.shelf.publish(artifact_of("kv", pair.base, multiple=multiple, ratio=ratio))
        for multiple, ratio in ((PAGE, 4), (3 * PAGE, 1), (6 * PAGE, 1))
    ]


def answers(engine: Any, artifacts: list[Artifact]) -> list[str]:
    requests = [
        Request(question, handle=engine.attach(each), max_tokens=8, history=history)
        for each in artifacts
        for question in QUESTIONS
        for history in ((), ((TEXT, "I see."),))
    ]
    return [completion.text for completion in engine.generate(requests)]


def test_pages_and_chunks_change_nothing(pair: Served, padded: list[Artifact]) -> None:
    wanted = answers(TransformersEngine(pair.base), padded)
    assert [answers(pair.engine, padded) for _ in range(2)] == [wanted, wanted]


def test_little_room_changes_nothing(pair: Served) -> None:
    """More memories than the servers' caches hold: they push each other out, and are loaded again."""
    made = artifact_of("kv", pair.base, multiple=3 * PAGE)
    tensors = {"keys": made.tensor("keys"), "values": made.tensor("values")}
    many = list[Artifact]()
    for number in range(12):
        changed = {name: (part * (1 + number / 10), AXES) for name, part in tensors.items()}
        many.append(Artifact.decode(Artifact.encode(replace(made.manifest, seed=number), changed)))
    for each in many:
        pair.shelf.publish(each)
    wanted = answers(TransformersEngine(pair.base), many)
    assert len(set(wanted)) > 12
    assert [answers(pair.engine, many) for _ in range(3)] == [wanted] * 3


def test_a_memory_that_does_not_end_with_a_page_is_refused(pair: Served) -> None:
    odd = pair.shelf.publish(artifact_of("kv", pair.base))
    with pytest.raises(EngineError, match="page size 16"):
        pair.engine.attach(odd)
    refused = pair.post("/generate", pair.payload(odd))
    assert "--option multiple=16" in refused.text


def test_no_answer_is_lost_or_wrong_when_a_server_dies(pair: Served, padded: list[Artifact]) -> None:
    """Last of the pair's: one server is gone afterwards."""
    wanted = answers(TransformersEngine(pair.base), padded)
    assert all(pair.engine.server(each.url)["page_size"] == PAGE for each in pair.servers)
    death = threading.Timer(0.5, pair.servers[0].kill)
    death.start()
    assert [answers(pair.engine, padded) for _ in range(4)] == [wanted] * 4
    death.join()  # a fast machine has answered before
    assert not pair.servers[0].running
    assert answers(pair.engine, padded) == wanted
    streamed = Request(QUESTIONS[0], handle=pair.engine.attach(padded[0]), max_tokens=8)
    *_, last = pair.engine.stream(streamed)
    assert last.text == wanted[0]  # type: ignore[union-attr] # a completion


def test_a_bank_is_served_and_asked_by_the_commands(
    cli: Callable[..., Any], home: Path, tiny: LoadedModel, environment: None, tmp_path: Path
) -> None:
    """sglang-args, a server with these flags, doctor, ask; what is remembered later is served, too."""
    options = {**TINY_OPTIONS, "ratio": 2}
    with Memory(home, tiny, "mira", compiler="lcc", options=options, gate="rule") as memory:
        info = memory.remember(TEXT)
        memory.wait()
        expected = memory.ask("Where does Mira live?")
    flags = cli("sglang-args", "--json").json["flags"]
    server = Server(tmp_path / "server", [*flags, "--max-total-tokens", "4096"])
    try:
        server.wait()
        checks = {row["name"]: row for row in cli("doctor", "--url", server.url, "--json").json["checks"]}
        assert checks[f"sglang {server.url}"]["status"] == checks["plugin"]["status"] == "ok"
        assert checks["model"]["status"] == "ok"
        asked = ("ask", "Where does Mira live?", "--user", "mira", "--gate", "rule", "--json")
        done = cli(*asked, "--engine", "sglang", "--url", server.url)
        assert done.code == 0, done.err
        assert (done.json["text"], done.json["route"]) == (expected.text, expected.route)
        assert done.json["trace"]["memory_id"] == info.id
    finally:
        server.kill()
    done = cli(*asked, "--engine", "sglang", "--url", server.url)
    assert done.code != 0
    assert "does not answer" in done.err


def test_a_server_without_the_plugin_is_told_apart(
    tiny: LoadedModel, environment: None, cli: Callable[..., Any], home: Path, tmp_path: Path
) -> None:
    prepare(home, tiny)
    server = Server(tmp_path, ["--model-path", tiny.name, "--max-total-tokens", "1024"], plugin=False)
    try:
        server.wait()
        done = cli("doctor", "--url", server.url, "--json")
        assert done.code == 1
        assert "without memkit's plugin" in done.out
    finally:
        server.kill()
