"""The router on a scripted engine: what the gates decide, and what they say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from router_kit import (
    INJECTION,
    JALO,
    MIRA,
    WHERE,
    Scripted,
    calibrated,
    outcome,
    remember,
    router,
)

from memkit.bank import Bank
from memkit.document import Document, Span
from memkit.engine.artifact_cache import ArtifactCache
from memkit.engine.base import Handle, Request
from memkit.errors import ConfigError
from memkit.pipeline.ingest import store_documents
from memkit.router import calibration, features
from memkit.router.embedders import LexicalEmbedder
from memkit.router.gate import GateConfig
from memkit.router.router import Router


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with Bank(tmp_path / "bank") as made:
        yield made


@pytest.fixture
def engine() -> Scripted:
    return Scripted()


def test_another_embedder_makes_the_vectors_anew(bank: Bank, engine: Scripted) -> None:
    info = remember(bank, MIRA, None)
    store_documents(bank, "jalo", LexicalEmbedder(), [Document(JALO)])
    other = Router(bank, "mira", lambda: engine, LexicalEmbedder(512))
    routed = other.route(WHERE, 8)
    assert outcome(routed) == ("text", info.id)
    assert "embedded again" in routed.notes[0]
    assert other.route(WHERE, 8).notes == ()
    assert (bank.embedder("mira"), bank.embedder("jalo")) == ("lexical:512", "lexical:2048")
    with pytest.raises(ConfigError, match="lexical:512"):
        bank.remember("mira", Document("x"), [Span(0, 1)], np.ones((1, 512)), embedder="other")


# --- gates -------------------------------------------------------------------------------------
def test_the_rule(bank: Bank, engine: Scripted) -> None:
    info = remember(bank, MIRA)
    routed = router(bank, engine).route(WHERE, 8)
    assert outcome(routed) == ("latent", info.id)
    assert (routed.decision.gate, routed.decision.calibrated, routed.probes) == ("rule", False, ())
    assert routed.request.handle == Handle(str(info.artifact_id), 4)
    assert outcome(router(bank, engine, min_similarity=1.0).route(WHERE + " Or Bo?", 8)) == ("none", None)
    assert outcome(router(bank, engine).route("What is the capital of France?", 8)) == ("none", None)


def test_the_entropy_gate(bank: Bank, engine: Scripted) -> None:
    info = remember(bank, MIRA)
    gate = router(bank, engine, name="entropy", max_entropy=2.0)
    engine.entropy[info.artifact_id] = 1.5
    kept = gate.route(WHERE, 8)
    assert outcome(kept) == ("latent", info.id)
    assert kept.decision.margin == pytest.approx(0.5)
    engine.entropy[info.artifact_id] = 2.5
    assert outcome(gate.route(WHERE, 8)) == ("none", None)
    with pytest.raises(ConfigError, match="memkit calibrate"):
        router(bank, engine, name="entropy").route(WHERE, 8)
    calibration.save(calibrated(max_entropy=3.0), calibration.folder_of(bank.path))
    again = router(bank, engine, name="entropy").route(WHERE, 8)
    assert (again.decision.route, again.decision.calibrated) == ("latent", True)


def test_the_learned_gate_has_three_outcomes_and_notices_loss(bank: Bank, engine: Scripted) -> None:
    info = remember(bank, MIRA)
    calibration.save(calibrated(), calibration.folder_of(bank.path))
    gate = router(bank, engine)
    engine.entropy[info.artifact_id] = 0.5
    kept = gate.route(WHERE, 8)
    assert outcome(kept) == ("latent", info.id)
    assert (kept.decision.gate, kept.decision.calibrated, len(kept.probes)) == ("learned", True, 1)
    engine.entropy |= {info.artifact_id: 4.0, MIRA: 0.5}  # the artifact does not know, the text does
    lost = gate.route(WHERE, 8)
    assert outcome(lost) == ("text", info.id)
    assert "may have lost this" in lost.decision.reason
    assert (lost.request.context, len(lost.probes)) == (MIRA, 2)
    engine.entropy[MIRA] = 4.0  # nor does the text
    assert outcome(gate.route(WHERE, 8)) == ("none", None)
    engine.scored.clear()
    assert outcome(gate.route("Name a fruit.", 8)) == ("none", None)
    assert engine.scored == []  # what the search rules out costs no pass of the model


def test_probes_are_shared_and_bounded(bank: Bank, engine: Scripted) -> None:
    for n in range(12):
        remember(bank, f"Mira lives in Town{n}.", n)
    calibration.save(calibrated(probe_from=0.0, none_below=0.0), calibration.folder_of(bank.path))
    routed = router(bank, engine, probes=5).route(WHERE, 8)
    probes = [r for r in routed.probes if r.handle is not None]
    assert len(probes) == 5
    assert sum(r.handle is None and r.context is None for r in routed.probes) == 1
    assert [c.probed for c in routed.candidates] == [True] * 5 + [False] * 3
    assert set(routed.candidates[0].features) == {
        *features.SEARCH_FEATURES,
        *features.PROBE_FEATURES,
        *features.GAIN_FEATURES,
    }
    clear = router(bank, engine, clear=0.0).route(WHERE, 8)
    assert len([r for r in clear.probes if r.handle is not None]) == 1
    assert all(r.handle or r.context for r in clear.probes)  # it has none to share a bare token with


def test_an_unusable_calibration_leaves_the_rule_and_says_so(bank: Bank, engine: Scripted) -> None:
    remember(bank, MIRA)
    path = calibration.save(calibrated(), calibration.folder_of(bank.path))
    path.write_text("{")
    routed = router(bank, engine).route(WHERE, 8)
    assert (routed.decision.gate, routed.decision.route) == ("rule", "latent")
    assert "calibrate again" in routed.notes[0]
    with pytest.raises(ConfigError, match="calibrate again"):
        router(bank, engine, name="learned").route(WHERE, 8)


@pytest.mark.parametrize(
    "wrong",
    [{"name": "magic"}, {"min_similarity": 2.0}, {"probes": 0}, {"reach": -1.0}, {"max_entropy": -1.0}],
)
def test_gate_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)) if "name" not in wrong else "gate"):
        GateConfig(**wrong)


def test_artifacts_used_longest_ago_are_let_go(bank: Bank, engine: Scripted) -> None:
    engine.held = ArtifactCache(lambda artifact_id, handle: None, capacity=2)
    infos = [remember(bank, f"Mira lives in Town{n}.", n) for n in range(5)]
    with ExitStack() as first, ExitStack() as held:
        router(bank, engine)._attach(infos[0], first)
        for info in infos[1:]:
            router(bank, engine)._attach(info, held)
        assert set(engine.held) == {info.artifact_id for info in infos}  # all are in use
        held.close()
        assert set(engine.held) == {infos[n].artifact_id for n in (0, 3, 4)}
    assert set(engine.held) == {infos[n].artifact_id for n in (3, 4)}


# --- bad input ---------------------------------------------------------------------------------
def test_memories_of_several_models(bank: Bank, engine: Scripted) -> None:
    ours, theirs = remember(bank, MIRA), remember(bank, MIRA + " Bo.", 1, fingerprint="another model")
    routed = router(bank, engine).route(WHERE, 8)
    assert routed.request.handle is not None
    obstacles = {c.memory_id: c.obstacle for c in routed.candidates}
    assert obstacles[ours.id] == ""
    assert "compiled for base model" in str(obstacles[theirs.id])


def test_empty_bank(bank: Bank, engine: Scripted) -> None:
    for name in ("auto", "rule", "entropy", "learned"):
        routed = router(bank, engine, name=name).route(WHERE, 8)
        assert (outcome(routed), routed.candidates) == (("none", None), ())


def test_an_artifact_that_vanished_leaves_the_text_and_a_hint(bank: Bank, engine: Scripted) -> None:
    info = remember(bank, MIRA)
    for file in bank.path.rglob("*.mka"):
        file.unlink()
    routed = router(bank, engine).route(WHERE, 8)
    assert outcome(routed) == ("text", info.id)
    assert "compile and publish it again" in routed.decision.reason
    calibration.save(calibrated(), calibration.folder_of(bank.path))
    engine.entropy[MIRA] = 0.5
    assert outcome(router(bank, engine).route(WHERE, 8)) == ("text", info.id)


@pytest.mark.parametrize(
    "question", ["Где живёт Мира?", "ミラはどこに住んでいますか", "?" * 40, "the of and"]
)
def test_questions_without_known_words(bank: Bank, engine: Scripted, question: str) -> None:
    remember(bank, MIRA)
    calibration.save(calibrated(), calibration.folder_of(bank.path))
    for name in ("rule", "learned"):
        assert outcome(router(bank, engine, name=name).route(question, 8)) == ("none", None)


def test_a_question_that_leaves_no_room_for_memory(bank: Bank, engine: Scripted) -> None:
    remember(bank, MIRA)
    long = "Mira " * 2000  # 10,000 characters
    routed = router(bank, engine).route(long, 8)
    assert outcome(routed) == ("none", None)
    assert "fits" in routed.notes[0]
    assert routed.request == Request(long, max_tokens=8)


@pytest.mark.parametrize("learned", [False, True])
def test_instructions_in_a_document_do_not_move_other_questions(
    bank: Bank, engine: Scripted, learned: bool
) -> None:
    ids = [remember(bank, MIRA, 1).id, remember(bank, JALO, 2).id]
    if learned:
        calibration.save(calibrated(), calibration.folder_of(bank.path))
        engine.entropy |= {info.artifact_id: 0.5 for info in bank.list("mira")}
    questions = [WHERE, "Where does Jalo work?", "What is Mira's dog called?", "Name a fruit."]
    before = [outcome(router(bank, engine).route(q, 8)) for q in questions]
    assert [key for _, key in before] == [ids[0], ids[1], ids[0], None]
    bad = remember(bank, INJECTION, 3)
    engine.entropy[bad.artifact_id] = 0.0  # and its artifact is ever so sure
    assert [outcome(router(bank, engine).route(q, 8)) for q in questions] == before


def test_tenants_do_not_meet_in_the_router(bank: Bank, engine: Scripted) -> None:
    remember(bank, MIRA)
    routed = router(bank, engine, tenant="jalo").route(WHERE, 8)
    assert (outcome(routed), routed.candidates) == (("none", None), ())
    assert not len(engine.held)
