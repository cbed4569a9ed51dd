"""Calibrating and measuring the router on a tiny model, through the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memkit.bench.routing import RouteConfig, gate, route
from memkit.engine.base import Request
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ConfigError, DocumentError
from memkit.evals import records
from memkit.evals.probe_flops import RequestFlops
from memkit.evals.reports.markdown import bench, render
from memkit.evals.router_dataset import Sources
from memkit.evals.router_study import RoutingConfig, study
from memkit.memory import Memory
from memkit.testing import TEXT, TINY_OPTIONS

Cli = Callable[..., Any]
OPTIONS = [word for key, value in TINY_OPTIONS.items() for word in ("--option", f"{key}={value}")]
ROWS = [
    "candidates",
    "none",
    "text_rag",
    "oracle",
    "retrieved",
    "routed",
    "rule_gate",
    "entropy_gate",
    "routed_gated",
    "gate",
]


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Twelve short documents with two questions each, and one that they do not answer."""
    rows = []
    for i in range(12):
        text = f"Name{i} lives in Town{i}. Name{i} works at Firm{i}. The lamp was old."
        asked = [
            {"q": f"Where does Name{i} live?", "answers": [f"Town{i}"]},
            {"q": f"Where does Name{i} work?", "answers": [f"Firm{i}"]},
            {"q": f"What is the name of Name{i}'s dog?", "answers": []},
        ]
        rows.append(json.dumps({"id": f"r{i}", "context": text, "questions": asked}))
    file = tmp_path / "people.jsonl"
    file.write_text("\n".join(rows))
    return file


@pytest.fixture
def general(tmp_path: Path) -> Path:
    file = tmp_path / "general.jsonl"
    lines = [{"q": f"Explain number {i} to a child.", "answers": []} for i in range(19)]
    file.write_text("\n".join(json.dumps(line) for line in [*lines, {"q": "Say yes.", "answers": ["yes"]}]))
    return file


def test_sources_are_read_and_refused(people: Path, general: Path, tmp_path: Path) -> None:
    assert records.load(str(people), 2, 0)[0].unanswerable == ("What is the name of Name0's dog?",)
    assert len(records.load_unanswerable(str(people), 5)) == 5
    assert len(records.load_queries(str(general))) == 20
    documents = [r.context for r in records.generated(3, 0)]
    assert all(len(r.unanswerable) == 2 for r in records.generated(3, 0))
    assert documents == [r.context for r in records.generated(3, 0)]
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"q": "a"}\n[]')
    with pytest.raises(DocumentError, match="line 2"):
        records.load_queries(str(bad))
    bad.write_text("\n")
    for read in (records.load_queries, records.load_unanswerable):
        for file in (str(bad), str(tmp_path / "absent")):
            with pytest.raises(ConfigError):
                read(file)


def test_the_study_has_its_rows_and_goes_on(
    people: Path, general: Path, tmp_path: Path, engine: TransformersEngine
) -> None:
    config = RoutingConfig(
        Sources(str(people), str(general), limit=12),
        tmp_path,
        compilers=("lcc", "none"),
        options=TINY_OPTIONS,
    )
    seen = list[str]()
    report = study(config, lambda label, done, total: seen.append(label), engine)
    for compiler in ("lcc", "none"):
        rows = {r["row"]: r for r in report["rows"] if r["compiler"] == compiler}
        assert list(rows) == ROWS
        assert rows["candidates"]["recall_at_8"] == rows["candidates"]["recall_at_1"] == 1.0
        assert rows["candidates"]["n"] == 24
        assert rows["oracle"]["top1"] == rows["routed"]["top1"] == 1.0
        assert rows["none"]["routes"]["answerable"] == {"none": rows["none"]["n"]}
        oracle = "latent" if compiler == "lcc" else "text"
        assert set(rows["oracle"]["routes"]["answerable"]) == {oracle}
        assert rows["none"]["harm_points"] == 0
        assert 0 <= rows["gate"]["balanced_accuracy"] <= 1
        assert rows["gate"]["harm_points"] <= 0
        assert rows["routed_gated"]["overhead_flops"] >= 0
    assert "compile" in seen
    with Memory(tmp_path / "lcc", user="evaluation", engine=engine) as memory:
        versions = {info.id: info.version for info in memory.list_memories()}
        assert set(versions.values()) == {1}
    study(config, engine=engine)  # compiles nothing again
    with Memory(tmp_path / "lcc", user="evaluation", engine=engine) as memory:
        assert {info.id: info.version for info in memory.list_memories()} == versions


def test_calibrate_then_ask(cli: Cli, people: Path, general: Path, home: Path, document: Path) -> None:
    words = ("calibrate", people, "--compiler", "none", "--unrelated", general, "--unanswerable", people)
    done = cli(*words, "--json", "-")
    assert done.code == 0
    made = done.json
    assert (made["compiler"], made["embedder"]) == ("none", "lexical:2048")
    assert Path(made["file"]).parent == home / "calibrations"
    assert {"n", "n_report", "seed", "date", "balanced_accuracy", "auroc"} <= set(made["report"])
    cli("remember", document)
    answer = cli("ask", "Where does Mira live?", "--json").json
    assert (answer["trace"]["gate"], answer["trace"]["calibrated"]) == ("learned", True)
    assert answer["trace"]["candidates"][0]["score"] is not None
    shown = cli("ask", "Where does Mira live?", "--trace")
    assert "learned, calibrated" in shown.err
    ruled = cli("ask", "Where does Mira live?", "--json", "--gate", "rule").json
    assert (ruled["trace"]["gate"], ruled["route"]) == ("rule", "text")
    assert cli("ask", "x", "--gate", "magic").code == 2
    assert cli("ask", "x", "--embedder", "magic").code == 2


def test_too_few_questions_to_calibrate(cli: Cli, people: Path, general: Path) -> None:
    done = cli("calibrate", people, "--compiler", "none", "--limit", "1", "--unrelated", general)
    assert (done.code, "at least 10" in done.err) == (2, True)


def test_the_study_as_a_command(cli: Cli, people: Path, general: Path, tmp_path: Path) -> None:
    out = tmp_path / "study.json"
    words = ("eval", people, "--study", "router", "--compilers", "none", "--unrelated", general)
    done = cli(*words, "--json", out)
    assert (done.code, "recall_at_8" in done.out) == (0, True)
    assert [row["row"] for row in json.loads(out.read_text())["rows"]] == ROWS
    results = tmp_path / "results"
    results.mkdir()
    out.rename(results / "router.json")
    assert "| none | candidates | 24 |" in render(results)
    assert (tmp_path / "study.json.bank" / "none" / "catalog.sqlite3").exists()
    assert cli("eval", people, "--unrelated", general).code == 2


def test_bench_route(tmp_path: Path) -> None:
    rows = {row["row"]: row for row in route(RouteConfig(60, 3, 16, 20))["rows"]}
    assert set(rows) == {"faiss", "exact", "inverted", "memkit"}
    assert rows["exact"]["recall_ratio_to_faiss"] == rows["memkit"]["recall_ratio_to_faiss"] == 1.0
    assert rows["inverted"]["recall_ratio_to_faiss"] > 0.5
    assert all(row["ratio_to_faiss_p50"] > 0 for name, row in rows.items() if name != "faiss")
    assert rows["memkit"]["bytes_ratio_to_faiss"] > 1
    with pytest.raises(ConfigError, match="chunks"):
        RouteConfig(chunks=0)
    assert "memkit bench route" in bench("route", route(RouteConfig(4, 1, 16, 2)), tmp_path)


def test_bench_gate(tiny_model_folder: Path) -> None:
    report = gate(str(tiny_model_folder), 60, 8, (1, 2), 1)
    one, two = report["rows"]
    assert one["flops"] < two["flops"] < one["flops_apart"] * 2
    assert two["flops_apart"] > two["flops"]
    assert one["ms"] > 0


def test_work_counts_the_text_and_not_the_header(engine: TransformersEngine) -> None:
    work = RequestFlops(engine)
    bare, text = Request("Who?"), Request("Who?", context=TEXT)
    assert work.probe(text) > work.probe(bare) > 0
    assert work.answer(bare, "Mira Mira") > work.answer(bare, "Mira")
    assert work.without_cache(bare) > work.probe(bare)
