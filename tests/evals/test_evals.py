"""Metrics against hand-computed values; the table on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from memkit import text_metrics
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ConfigError, DocumentError
from memkit.evals import records
from memkit.evals.baselines.rag import Passages
from memkit.evals.journal import Cell, table
from memkit.evals.reports.markdown import columns_of, render
from memkit.evals.run import EvalConfig, evaluate
from memkit.models.nano.prompts import PROMPTS
from memkit.prompts import PromptSet
from memkit.router.embedders import LexicalEmbedder
from memkit.testing import TEXT, TINY_OPTIONS

COLUMNS = (
    "method ratio n em f1 contains retention kl drift_kl drift_points compile_s compile_flops artifact_bytes "
    "prompt_tokens ttft_ms"
).split()


def test_metrics() -> None:
    assert text_metrics.exact_match("The Keldor.", ["keldor"]) == 1
    assert text_metrics.exact_match("in Keldor", ["Keldor"]) == 0
    assert text_metrics.contains("She lives in Keldor now", ["Keldor"]) == 1
    assert text_metrics.contains("Keldorian", ["Keldor"]) == 0
    assert text_metrics.contains("anything", [""]) == 0
    assert text_metrics.f1("red big house", ["the big house"]) == pytest.approx(0.8)
    assert text_metrics.f1("no", ["yes"]) == 0
    assert text_metrics.retention(0.75, 0.25, 1.0) == pytest.approx(2 / 3)
    assert text_metrics.retention(0.5, 0.5, 0.5) is None
    low, high = text_metrics.wilson(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)


def test_records_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    good = {
        "id": "a",
        "context": TEXT,
        "questions": [{"q": "?", "answers": ["x"]}, {"q": "??", "answers": []}],
    }
    file.write_text(json.dumps(good) + "\n\n" + json.dumps(good))
    loaded = records.load(str(file), None, 0)
    assert len(loaded) == 2
    assert [q.text for q in loaded[0].questions] == ["?"]
    file.write_text(json.dumps(good) + "\n{bad")
    with pytest.raises(DocumentError, match="line 2"):
        records.load(str(file), None, 0)
    with pytest.raises(ConfigError, match="no file"):
        records.load(str(tmp_path / "absent.jsonl"), None, 0)


def test_the_number_of_facts_can_be_given() -> None:
    assert [len(r.questions) for r in records.load("generated:2:3", None, 5)] == [3, 3]
    assert {len(r.questions) for r in records.load("generated:12:3-5", None, 5)} == {3, 4, 5}
    for wrong in ("generated:0", "generated:2:5-3", "generated:2:0", "generated:", "generated:2:3:4"):
        with pytest.raises(ConfigError, match="generated"):
            records.load(wrong, None, 0)
    with pytest.raises(ConfigError, match="more facts"):  # no end would come of it
        records.load("generated:1:1", None, 0)


def test_generated_records_are_seeded_and_sized() -> None:
    a, b = records.load("generated:3", None, 5), records.load("generated:3", None, 5)
    assert a == b
    assert all(len(r.questions) == 8 for r in a)
    assert a != records.load("generated:3", None, 6)


@pytest.mark.parametrize(
    "bad",
    [
        {"baselines": ("best",)},
        {"limit": 0},
        {"ratios": (0.5,)},
        {"compilers": ("x",)},
        {"compilers": ("lcc:x",)},
    ],
)
def test_bad_settings(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        EvalConfig("generated", **bad)  # type: ignore[arg-type]


def test_table(engine: TransformersEngine, tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    row = {"id": "a", "context": TEXT, "questions": [{"q": "Where does Mira live?", "answers": ["Keldor"]}]}
    file.write_text(json.dumps(row))
    options = {**TINY_OPTIONS, "self_study": 0}
    config = EvalConfig(
        str(file), compilers=("lcc", "lcc:pure"), ratios=(4, 8), options=options, drift="general"
    )
    report = evaluate(config, engine=engine)
    json.dumps(report)
    assert [(r["method"], r["ratio"]) for r in report["rows"]] == [
        ("full", None),
        ("none", None),
        ("lcc", 4),
        ("lcc", 8),
        ("lcc:pure", 4),
        ("lcc:pure", 8),
    ]
    for line in report["rows"]:
        assert set(COLUMNS) <= set(line)
        assert line["n"] == 1
    full, none, four, eight = report["rows"][:4]
    assert full["kl"] == pytest.approx(0, abs=1e-5)
    assert none["drift_points"] == pytest.approx(0)
    assert four["artifact_bytes"] > eight["artifact_bytes"]
    assert full["prompt_tokens"] > four["prompt_tokens"] > eight["prompt_tokens"]


def test_a_record_longer_than_the_window_is_left_out_and_named(
    tmp_path: Path, engine: TransformersEngine
) -> None:
    questions = [{"q": "Where does Mira live?", "answers": ["Keldor"]}]
    rows = [{"id": f"r{n}", "context": TEXT * n, "questions": questions} for n in (1, 60)]
    file = tmp_path / "r.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    table = evaluate(EvalConfig(str(file), compilers=()), engine=engine)
    assert (table["records"], table["skipped"]) == (1, ["r60"])
    assert {row["n"] for row in table["rows"]} == {1}
    file.write_text(json.dumps(rows[1]))
    with pytest.raises(ConfigError, match="fits"):
        evaluate(EvalConfig(str(file), compilers=()), engine=engine)


def test_baselines_at_the_budget_of_an_artifact(engine: TransformersEngine, tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    row = {"id": "a", "context": TEXT, "questions": [{"q": "Where does Mira live?", "answers": ["Keldor"]}]}
    file.write_text(json.dumps(row))
    config = EvalConfig(
        str(file),
        compilers=(),
        baselines=("full", "none", "rag", "cartridge"),
        ratios=(4,),
        options={**TINY_OPTIONS, "steps": 0},
        self_test=True,
    )
    report = evaluate(config, engine=engine)
    full, none, rag, cartridge = report["rows"]
    assert [r["method"] for r in (rag, cartridge)] == ["rag", "cartridge"]
    assert rag["prompt_tokens"] <= cartridge["prompt_tokens"]
    assert none["prompt_tokens"] < rag["prompt_tokens"] < full["prompt_tokens"]
    assert cartridge["records"][0]["admission"]["questions"] >= 1


def test_passages_keep_to_the_budget(engine: TransformersEngine) -> None:
    embedder = LexicalEmbedder()
    question = "What is her dog called, Tovin or Jalo?"
    passages = Passages(engine, embedder, TEXT)
    assert passages.best(question, 10_000) == TEXT
    for budget in (1, 5, 12, 20):
        text = passages.best(question, budget)
        assert text
        assert engine.count_tokens(text) <= budget + 1  # the space between two sentences
    assert "Tovin" in passages.best("What is the dog called?", 16)


def test_retrieval_takes_the_embedder_asked_for(engine: TransformersEngine, tmp_path: Path) -> None:
    asked = [{"q": "Where does Mira live?", "answers": ["Keldor"]}]
    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps({"id": "a", "context": TEXT, "questions": asked}))
    about: dict[str, Any] = {"compilers": (), "baselines": ("rag",), "ratios": (2,)}
    assert evaluate(EvalConfig(str(file), **about), engine=engine)["embedder"] == LexicalEmbedder().name
    with pytest.raises(ConfigError, match="unknown embedder"):
        evaluate(EvalConfig(str(file), **about, embedder="magic"), engine=engine)


def test_an_interrupted_evaluation_goes_on(engine: TransformersEngine, tmp_path: Path) -> None:
    asked = [{"q": "Where does Mira live?", "answers": ["Keldor"]}]
    file, journal = tmp_path / "r.jsonl", tmp_path / "out.json.partial"
    file.write_text("\n".join(json.dumps({"id": i, "context": TEXT, "questions": asked}) for i in "ab"))
    config = EvalConfig(str(file), ratios=(8,), options=TINY_OPTIONS)
    compiled = list[str]()

    def stop(label: str, done: int, total: int) -> None:
        if label.startswith("b lcc"):  # the second record has cells already
            raise KeyboardInterrupt

    def count(label: str, done: int, total: int) -> None:
        if "lcc" in label:
            compiled.append(label[0])

    with pytest.raises(KeyboardInterrupt):
        evaluate(replace(config, limit=5), stop, engine, journal)
    with journal.open("a") as out:
        out.write('{"method": "lcc", "ra')  # what a kill may leave
    with pytest.raises(ConfigError, match="another evaluation"):
        evaluate(EvalConfig(str(file), ratios=(4,), options=TINY_OPTIONS), engine=engine, journal=journal)
    copy = journal.with_suffix(".copy")
    copy.write_bytes(journal.read_bytes())
    fewer = evaluate(replace(config, limit=1), count, engine, copy)
    assert (fewer["records"], compiled) == (1, [])
    resumed = evaluate(config, count, engine, journal)
    assert set(compiled) == {"b"}
    assert not journal.exists()
    whole = evaluate(config, engine=engine)
    changing = {"compile_s", "ttft_ms", "curve"}
    for a, b in zip(resumed["rows"], whole["rows"], strict=True):
        assert {k: v for k, v in a.items() if k not in changing} == {
            k: v for k, v in b.items() if k not in changing
        }


def test_retention_compares_the_same_records() -> None:
    def cell(method: str, record: str, right: float, reason: str = "") -> Cell:
        values = () if reason else (right,)
        return Cell(
            method, None if method in ("full", "none") else 8.0, record, values, values, values, reason=reason
        )

    cells = [
        cell("full", "a", 1),
        cell("full", "b", 0),
        cell("none", "a", 0),
        cell("none", "b", 0),
        cell("lcc", "a", 1),
        cell("lcc", "b", 0, "too long"),
    ]
    lcc = table(cells, None)[2]
    assert (lcc["retention"], lcc["failed"], lcc["n"], lcc["reasons"]) == (1.0, 1, 1, ["too long"])
    both = table([*cells[:5], cell("lcc", "b", 0)], None)[2]
    assert both["retention"] == 1.0
    low, high = both["retention_ci95"]
    assert low <= 1.0 <= high


def test_rouge_l() -> None:
    assert text_metrics.rouge_l("police killed the gunman", ["police kill the gunman"]) == pytest.approx(
        2 / 3
    )
    assert text_metrics.rouge_l("a b c d", ["d c b a"]) == pytest.approx(2 / 6)  # "a" is an article
    assert text_metrics.rouge_l("", ["x"]) == 0
    assert text_metrics.rouge_l("same words here", ["other", "same words here"]) == 1


def test_the_committed_report_is_what_the_results_say(cli: Callable[..., Any]) -> None:
    root = Path(__file__).resolve().parents[2]
    done = cli("eval", root / "results", "--report")
    assert done.out == (root / "RESULTS.md").read_text()
    assert cli("eval", root / "memkit", "--report").code == 2


def test_models_are_asked_for_few_words(engine: TransformersEngine, tmp_path: Path) -> None:
    questions = [{"q": "Where does Mira live?", "answers": ["Keldor"]}]
    short = {"id": "short", "context": TEXT, "questions": questions}
    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps(short) + "\n" + json.dumps({**short, "id": "long", "metric": "rouge_l"}))
    wanted = "Where does Mira live? Answer with a few words from the text above."
    table = evaluate(EvalConfig(str(file), compilers=()), engine=engine)
    assert [one["question"] for one in table["asked"]] == [wanted, "Where does Mira live?"]
    assert table["wording"] == "{question} Answer with a few words from the text above."
    table = evaluate(EvalConfig(str(file), compilers=(), wording="Say: {question}"), engine=engine)
    assert [one["question"] for one in table["asked"]] == ["Say: Where does Mira live?"] * 2
    assert EvalConfig("generated:1").worded(records.load(str(file), 1, 0)[0], PROMPTS).questions[0].text == (
        "Where does Mira live?"
    )


def test_retrieval_is_by_the_question_alone(
    engine: TransformersEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [{"q": "Where does Mira live?", "answers": ["Keldor"]}]
    file, asked = tmp_path / "r.jsonl", list[str]()
    file.write_text(json.dumps({"id": "a", "context": TEXT, "questions": questions}))

    def retrieve(self: Passages, question: str, budget: int) -> str:
        asked.append(question)
        return TEXT

    monkeypatch.setattr(Passages, "best", retrieve)
    evaluate(EvalConfig(str(file), compilers=(), baselines=("rag",), ratios=(2,)), engine=engine)
    assert asked == ["Where does Mira live?"]


def test_defaults_by_model() -> None:
    nano, other = (EvalConfig("generated:1").resolved(prompts) for prompts in (PROMPTS, PromptSet()))
    assert (nano.drift, nano.ttft) == ("general", 5)
    assert (other.drift, other.ttft) == ("none", 1)
    asked = EvalConfig("generated:1", drift="general", ttft=0).resolved(PromptSet())
    assert (asked.drift, asked.ttft) == ("general", 0)


def test_longer_records_are_left_out(engine: TransformersEngine, tmp_path: Path) -> None:
    questions = [{"q": "Where does Mira live?", "answers": ["Keldor"]}]
    file = tmp_path / "r.jsonl"
    rows = [{"id": f"r{n}", "context": TEXT * n, "questions": questions} for n in (3, 1, 4, 1, 1)]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    most = engine.count_tokens(TEXT)
    table = evaluate(EvalConfig(str(file), compilers=(), limit=2, max_tokens=most), engine=engine)
    assert [one["record"] for one in table["asked"]] == ["r1", "r1#2"]  # the limit is of those that are asked
    assert (table["skipped"], table["max_tokens"]) == (["r3", "r4"], most)
    (tmp_path / "1-r.json").write_text(json.dumps(table))
    assert f"Longer than {most} tokens or the model's window, left out: r3, r4." in render(tmp_path)
    with pytest.raises(ConfigError, match="fits the 5 tokens"):
        evaluate(EvalConfig(str(file), compilers=(), max_tokens=5), engine=engine)


def test_the_self_test_is_left_out_unless_asked_for(engine: TransformersEngine, tmp_path: Path) -> None:
    questions = [{"q": "Where does Mira live?", "answers": ["Keldor"]}]
    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps({"id": "a", "context": TEXT, "questions": questions}))
    for asked in (False, True):
        config = EvalConfig(str(file), ratios=(8,), options=TINY_OPTIONS, self_test=asked)
        lcc = evaluate(config, engine=engine)["rows"][-1]
        assert ("admission" in lcc["records"][0]) == asked


def test_agreement_and_retention_of_f1_have_intervals() -> None:
    def cell(method: str, record: str, f1: float, same: float) -> Cell:
        ratio = None if method in ("full", "none") else 8.0
        right = (float(f1 > 0.5),)
        return Cell(method, ratio, record, right, (f1,), right, agreement=(same,), agreement_f1=(same / 2,))

    cells = [cell("full", r, 0.8, 1) for r in "abcd"] + [cell("none", r, 0.2, 0) for r in "abcd"]
    cells += [
        cell("lcc", r, f1, same)
        for r, f1, same in (("a", 0.8, 1), ("b", 0.5, 0), ("c", 0.6, 1), ("d", 0.3, 0))
    ]
    row = table(cells, None)[2]
    assert row["retention"] == 0.5
    assert row["retention_f1"] == pytest.approx(0.35 / 0.6)
    assert (row["agreement"], row["agreement_f1"]) == (0.5, 0.25)
    for name in ("retention", "retention_f1", "agreement", "agreement_f1"):
        low, high = row[f"{name}_ci95"]
        assert low < row[name] < high
    titles = [title for _, title, _ in columns_of([row])]
    assert titles[titles.index("agreement F1") + 1] == "95 % CI"
    assert "retention of F1" in titles
    older = {key: value for key, value in row.items() if key != "agreement_f1"}
    assert "retention of F1" not in [title for _, title, _ in columns_of([older])]
