"""Routing and gating through SGLang: the same decisions as in this process."""

from __future__ import annotations

from typing import Any

import pytest
from sglang_kit import Served

from memkit.artifact.format import Artifact
from memkit.compilers.lcc.compiler import LCC
from memkit.document import Document
from memkit.memory import Memory
from memkit.router.gate import GateConfig
from memkit.testing import TEXT, TINY_OPTIONS

pytestmark = pytest.mark.sglang
TEXTS = [
    TEXT,
    "Simsem lives in Lasces. Her boat is green.",
    "The mayor of Oslo likes tea, and Mira likes dogs.",
]
QUESTIONS = ["Where does Mira live?", "Whose boat is green?", "Who likes tea?", "What is seven times eight?"]


@pytest.fixture(scope="module", params=["kv", "lora"])
def memories(sglang: Served, request: pytest.FixtureRequest) -> Memory:
    """Three documents, compiled, of a user of their own."""
    compiler = {"kv": "lcc", "lora": "lora"}[request.param]
    options: dict[str, Any] = {"steps": 2, "self_study": 4, "agnostic": 2, "answer_tokens": 4, "warmup": 0}
    options |= {"self_study_again": 1, **({"rank": 2, "lr": 0.05} if compiler == "lora" else {"ratio": 2})}
    memory = Memory(
        sglang.shelf.home, sglang.base, f"user-{request.param}", compiler=compiler, options=options
    )
    for text in TEXTS:
        memory.compile(memory.remember(text, compile=False).id)
    assert all(info.artifact_id for info in memory.list_memories())
    return memory


@pytest.mark.parametrize(
    "gate",
    [GateConfig("rule"), GateConfig("entropy", max_entropy=4.0), GateConfig("entropy", max_entropy=6.2)],
)
def test_decisions_are_the_same(sglang: Served, memories: Memory, gate: GateConfig) -> None:
    user, base, home = memories.user, sglang.base, sglang.shelf.home
    with (
        Memory(home, base, user, gate=gate) as here,
        Memory(home, base, user, gate=gate, engine=sglang.engine) as there,
    ):
        for question in QUESTIONS:
            mine, theirs = here.ask(question, max_tokens=6), there.ask(question, max_tokens=6)
            assert (mine.text, mine.route) == (theirs.text, theirs.route)
            assert mine.trace.memory_id == theirs.trace.memory_id
            assert mine.trace.artifact_id == theirs.trace.artifact_id
            assert mine.trace.prompt_tokens == theirs.trace.prompt_tokens
            for a, b in zip(mine.trace.candidates, theirs.trace.candidates, strict=True):
                assert a.features == pytest.approx(b.features, abs=1e-3)


def test_a_calibrated_bank_is_probed_alike(sglang: Served, memories: Memory) -> None:
    """What the learned gate sees of several candidates, hidden states included."""
    with (
        Memory(sglang.shelf.home, sglang.base, memories.user) as here,
        Memory(sglang.shelf.home, sglang.base, memories.user, engine=sglang.engine) as there,
    ):
        for question in QUESTIONS[:2]:
            looked = [memory.router.retrieve(question) for memory in (here, there)]
            for memory, each in zip((here, there), looked, strict=True):
                memory.router.probe(each, range(len(each.ranked)))
            mine, theirs = (each.probes for each in looked)
            assert mine.keys() == theirs.keys()
            assert len(mine) > 1
            for i in mine:
                assert mine[i].values == pytest.approx(theirs[i].values, abs=1e-3)
                assert mine[i].gains == pytest.approx(theirs[i].gains, abs=1e-3)
                assert mine[i].memory.hidden == pytest.approx(theirs[i].memory.hidden, abs=1e-3)


def test_a_memory_published_elsewhere_is_served_at_once(sglang: Served) -> None:
    """Compiled by one process, asked through the servers by another, forgotten by the first."""
    made = Artifact.decode(
        LCC({**TINY_OPTIONS, "ratio": 2}).compile(Document(TEXTS[1]), sglang.base, tenant="late").data
    )
    with Memory(sglang.shelf.home, sglang.base, "late", gate="rule", engine=sglang.engine) as memory:
        info = memory.remember(TEXTS[1], compile=False)
        assert memory.ask("Whose boat is green?", max_tokens=4).route == "text"
        memory.bank.publish("late", info.id, bytes(made._bytes()))
        assert memory.ask("Whose boat is green?", max_tokens=4).route == "latent"
        memory.forget(info.id)
        assert memory.ask("Whose boat is green?", max_tokens=4).route == "none"
