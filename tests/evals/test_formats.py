"""Data sets in the formats they are published in, cut to a few invented lines each."""

from __future__ import annotations

import gzip
import json
import lzma
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkit.errors import ConfigError, DocumentError
from memkit.evals import records
from memkit.evals.baselines.kvpress import MORE_PRESSES, PRESSES
from memkit.evals.config import BASELINES
from memkit.evals.formats.base import Question, Record
from memkit.evals.formats.registry import FORMATS, read
from memkit.evals.formats.squad import LONG_WORDS

ROOT = Path(__file__).resolve().parents[2]
Kept = Callable[..., str]

OWN = {"context": "Ada keeps bees.", "questions": [{"q": "What does Ada keep?", "answers": ["bees"]}]}
SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Brennet",
            "paragraphs": [
                {
                    "context": "Brennet has one lighthouse.",
                    "qas": [
                        {
                            "id": "1",
                            "question": "What has Brennet?",
                            "answers": [
                                {"text": "one lighthouse", "answer_start": 12},
                                {"text": "one lighthouse", "answer_start": 12},
                                {"text": "lighthouse", "answer_start": 16},
                            ],
                            "is_impossible": False,
                        },
                        {"id": "2", "question": "Who built it?", "answers": [], "is_impossible": True},
                    ],
                },
                {
                    "context": "Its ferry is red.",
                    "qas": [{"id": "3", "question": "What is red?", "answers": [{"text": "Its ferry"}]}],
                },
            ],
        }
    ],
}
HOTPOT = {
    "_id": "5a",
    "question": "Are the ferry and the mill of the same colour?",
    "answer": "yes",
    "type": "comparison",
    "level": "hard",
    "supporting_facts": [["Ferry", 0], ["Mill", 0]],
    "context": [["Ferry", ["It is red.", " It is old."]], ["Mill", ["It is red."]]],
}
MUSIQUE = {
    "id": "3hop1__1_2_3",
    "paragraphs": [{"idx": 0, "title": "Mill", "paragraph_text": "Odo runs it.", "is_supporting": True}],
    "question": "Who runs the mill?",
    "answer": "Odo",
    "answer_aliases": ["Odo of Brennet", "Odo"],
    "answerable": True,
}
NQ = {
    "question": "who runs the mill",
    "answers": ["Odo"],
    "ctxs": [
        {"title": "Ferry", "text": "It is red.", "isgold": False},
        {"title": "Mill", "text": "Odo runs it.", "isgold": True},
    ],
}
SQUALITY = {
    "metadata": {"passage_id": "777", "license": "none"},
    "document": "Odo went home. He slept.",
    "questions": [
        {
            "question_text": "What is the plot?",
            "question_number": 1,
            "responses": [{"response_text": "Odo goes home. "}, {"response_text": "A man goes home."}],
        },
        {"question_text": "Who sleeps?", "question_number": 2, "responses": [{"response_text": "Odo does."}]},
    ],
}
LONGMEMEVAL = {
    "question_id": "q7",
    "question_type": "knowledge-update",
    "question": "How many bees do I keep?",
    "answer": 40,
    "question_date": "2023/06/01 (Thu) 10:00",
    "haystack_dates": ["2023/05/20 (Sat) 02:21", "2023/05/02 (Tue) 08:00"],
    "haystack_session_ids": ["b", "a"],
    "haystack_sessions": [
        [{"role": "user", "content": "Now I keep 40 bees.", "has_answer": True}],
        [{"role": "user", "content": "I keep 20 bees."}, {"role": "assistant", "content": "Lovely."}],
    ],
    "answer_session_ids": ["b"],
}
LOCOMO = {
    "sample_id": "conv-1",
    "conversation": {
        "speaker_a": "Ada",
        "speaker_b": "Odo",
        "session_10_date_time": "2:00 pm on 9 May, 2023",
        "session_10": [{"speaker": "Odo", "dia_id": "D10:1", "text": "I sold the mill."}],
        "session_2_date_time": "1:00 pm on 8 May, 2023",
        "session_2": [
            {"speaker": "Ada", "dia_id": "D2:1", "text": "Look!", "blip_caption": "a photo of a bee"}
        ],
    },
    "qa": [
        {"question": "When did Odo sell the mill?", "answer": 2023, "evidence": ["D10:1"], "category": 2},
        {
            "question": "When did Ada sell it?",
            "adversarial_answer": "2023",
            "evidence": ["D10:1"],
            "category": 5,
        },
    ],
}


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    """Writes values as JSON lines, or one value as a JSON document; returns the file's path."""

    def write(*values: Any, name: str = "data.json") -> str:
        file = tmp_path / name
        file.write_text("\n".join(json.dumps(value) for value in values))
        return str(file)

    return write


def test_squad_is_a_record_a_paragraph(kept: Kept) -> None:
    first, second = read(kept(SQUAD))
    assert (first.id, second.id) == ("Brennet 1", "Brennet 2")
    assert first.context == "Brennet has one lighthouse."
    assert first.questions == (Question("What has Brennet?", ("one lighthouse", "lighthouse")),)
    assert first.unanswerable == ("Who built it?",)
    assert second.questions == (Question("What is red?", ("Its ferry",)),)


def test_squad_joins_paragraphs_up_to_a_length(kept: Kept) -> None:
    (joined,) = read(f"squad-long:{kept(SQUAD)}")
    assert joined.context == "Brennet has one lighthouse.\n\nIts ferry is red."
    assert [q.text for q in joined.questions] == ["What has Brennet?", "What is red?"]
    third = {"context": "word " * LONG_WORDS, "qas": []}
    article = {"title": "Brennet", "paragraphs": [*SQUAD["data"][0]["paragraphs"], third]}  # type: ignore[index]
    long = list(read(f"squad-long:{kept({'data': [article]})}"))
    assert [len(record.context.split()) for record in long] == [8, LONG_WORDS]


def test_mrqa(kept: Kept) -> None:
    row = {"id": "", "context": "Odo runs it.", "qas": [{"question": "Who?", "answers": ["Odo", "Odo"]}]}
    (record,) = read(kept({"header": {"dataset": "X", "split": "dev"}}, row))
    assert record == Record("2", "Odo runs it.", (Question("Who?", ("Odo",)),))


def test_hotpot_and_2wiki(kept: Kept) -> None:
    wiki = {**HOTPOT, "_id": "6b", "type": "inference", "evidences": [["a", "b", "c"]]}
    first, second = read(kept([HOTPOT, wiki]))
    assert first.id == "5a"
    assert first.context == "Ferry\nIt is red. It is old.\n\nMill\nIt is red."
    assert first.questions[0].category == "comparison"
    assert second.questions[0].category == "inference"


def test_musique(kept: Kept) -> None:
    first, second = records.load_unanswerable, list(read(kept(MUSIQUE, {**MUSIQUE, "answerable": False})))
    assert second[0].questions == (Question("Who runs the mill?", ("Odo", "Odo of Brennet"), "3hop1"),)
    assert second[0].context == "Mill\nOdo runs it."
    assert second[1].unanswerable == ("Who runs the mill?",)
    (record,) = first(kept(MUSIQUE, {**MUSIQUE, "answerable": False}))
    assert record.id == "3hop1__1_2_3#2"  # both have one id in MuSiQue-Full


@pytest.mark.parametrize(("pack", "ending"), [(gzip.compress, ".gz"), (lzma.compress, ".xz")])
def test_natural_questions_packed(tmp_path: Path, pack: Callable[[bytes], bytes], ending: str) -> None:
    file = tmp_path / f"nq.jsonl{ending}"
    file.write_bytes(pack(json.dumps(NQ).encode()))
    (record,) = read(str(file))
    assert record.context == "Ferry\nIt is red.\n\nMill\nOdo runs it."
    assert record.questions == (Question("who runs the mill", ("Odo",), "gold at 1"),)
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DocumentError, match="cannot read"):
        list(read(str(file)))


def test_squality_is_scored_by_rouge(kept: Kept) -> None:
    (record,) = read(kept(SQUALITY))
    assert (record.id, record.metric) == ("777", "rouge_l")
    assert record.questions[0] == Question(
        "What is the plot?", ("Odo goes home.", "A man goes home."), "plot"
    )
    assert record.questions[1].category == "detail"


def test_xsum(kept: Kept) -> None:
    (record,) = read(kept({"id": "1", "document": "Odo went home.", "summary": "A man went home."}))
    assert record.questions[0].answers == ("A man went home.",)
    assert record.metric == "rouge_l"


def test_longmemeval_is_a_dated_conversation(kept: Kept) -> None:
    answerable, abstains = read(kept([LONGMEMEVAL, {**LONGMEMEVAL, "question_id": "q7_abs"}]))
    assert answerable.context == (
        "[2023/05/02 (Tue) 08:00]\nuser: I keep 20 bees.\nassistant: Lovely.\n\n"
        "[2023/05/20 (Sat) 02:21]\nuser: Now I keep 40 bees."
    )
    question = "Today is 2023/06/01 (Thu) 10:00. How many bees do I keep?"
    assert answerable.questions == (Question(question, ("40",), "knowledge-update"),)
    assert (abstains.questions, abstains.unanswerable) == ((), (question,))


def test_locomo(kept: Kept) -> None:
    (record,) = read(kept([LOCOMO]))
    assert record.id == "conv-1"
    assert record.context == (
        "[1:00 pm on 8 May, 2023]\nAda: Look! [picture: a photo of a bee]\n\n"
        "[2:00 pm on 9 May, 2023]\nOdo: I sold the mill."
    )
    assert record.questions == (Question("When did Odo sell the mill?", ("2023",), "temporal"),)
    assert record.unanswerable == ("When did Ada sell it?",)


def test_conversations_of_our_own(kept: Kept) -> None:
    asked = [{"q": "Who?", "answers": ["Odo"]}]
    session = {"n": 1, "date": "8 May", "turns": [["D1:1", "Odo", "Look!", "a bee"]]}
    dated = {"id": "a", "type": "kind", "question_date": "9 May", "sessions": [session], "questions": asked}
    plain = {"id": "b", "turns": [["user", "Hello."]], "questions": asked}
    qa = [{"q": "When?", "answer": 5, "category": 1}, {"q": "Why?", "answer": None, "category": 5}]
    first, second, third = read(kept(dated, plain, {"id": "c", "sessions": [session], "qa": qa}))
    assert first.context == "[8 May]\nOdo: Look! [picture: a bee]"
    assert first.questions == (Question("Today is 9 May. Who?", ("Odo",), "kind"),)
    assert second.context == "user: Hello."
    assert third.questions == (Question("When?", ("5",), "multi-hop"),)
    assert third.unanswerable == ("Why?",)


def test_our_own_records_may_name_metric_and_category(kept: Kept) -> None:
    long = {"q": "Why?", "answers": ["so " * 31], "category": "reasons"}
    row = {**OWN, "task": "facts"}
    first, second, third = read(kept(row, {**row, "metric": "f1"}, {**row, "questions": [long]}))
    assert (first.metric, first.questions[0].category) == ("contains", "facts")
    assert second.metric == "f1"
    assert (third.metric, third.questions[0].category) == ("rouge_l", "reasons")


def test_records_have_ids_that_differ(kept: Kept) -> None:
    row = {**OWN, "id": "a"}
    assert [r.id for r in records.load(kept(row, row, {**OWN, "id": "b"}, row), None, 0)] == [
        "a",
        "a#2",
        "b",
        "a#3",
    ]


def test_a_document_on_several_lines_and_one_of_windows(tmp_path: Path) -> None:
    file = tmp_path / "squad.json"
    file.write_text(json.dumps(SQUAD, indent=1))
    assert len(list(read(str(file)))) == 2
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(OWN).encode() + b"\r\n")
    assert len(list(read(str(file)))) == 1


def test_general_questions_of_alpaca_eval(kept: Kept) -> None:
    rows = [{"instruction": "Say yes.", "output": "Yes.", "dataset": "x"}, {"q": "Sum up.", "input": "Bees."}]
    assert records.load_queries(kept(rows)) == [Question("Say yes.", ()), Question("Sum up.\n\nBees.", ())]


def changed(value: Any, *path: str | int, to: Any) -> Any:
    """A copy of a JSON value, with another one at ``path`` (None: without it)."""
    if not path:
        return to
    copy = value.copy()
    if to is None and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = changed(copy[path[0]], *path[1:], to=to)
    return copy


@pytest.mark.parametrize(
    ("format", "value", "said"),
    [
        ("records", {**OWN, "metric": "bleu"}, "line 1: metric is 'bleu'"),
        ("records", {**OWN, "context": " "}, "line 1: it cannot be remembered"),
        ("records", {**OWN, "context": ["x"]}, "line 1: context is a list, where text is expected"),
        (
            "squad",
            changed(SQUAD, "data", 0, "paragraphs", 0, "qas", to=None),
            r"data\[0\].paragraphs\[0\].qas is",
        ),
        ("squad", {"data": "x"}, "line 1: data is text, where a list is expected"),
        ("squad-long", OWN, "line 1: data is missing"),
        ("mrqa", {"qas": [{"question": "?"}]}, r"line 1: qas\[0\].answers is missing"),
        (
            "hotpot",
            [HOTPOT, changed(HOTPOT, "context", 1, to=["Mill"])],
            r"record 2: context\[1\] has 1 members",
        ),
        ("hotpot", changed(HOTPOT, "answer", to=True), "answer is a truth value"),
        ("musique", changed(MUSIQUE, "paragraphs", 0, "title", to=None), r"paragraphs\[0\].title is missing"),
        ("nq", changed(NQ, "ctxs", 0, to="x"), r"ctxs\[0\] is text, where an object is expected"),
        ("squality", changed(SQUALITY, "questions", 1, "responses", to={}), "responses is an object"),
        ("xsum", {"document": "x", "summary": 3.5, "id": []}, "id is a list"),
        ("longmemeval", changed(LONGMEMEVAL, "haystack_dates", to=["x"]), "has 1 dates for 2 sessions"),
        ("locomo", changed(LOCOMO, "conversation", to=[]), "conversation is a list, where an object"),
        ("locomo", changed(LOCOMO, "qa", 0, "answer", to=None), r"qa\[0\].answer is missing"),
        ("conversations", {"turns": [["x"]], "questions": []}, r"turns\[0\] has 1 members"),
    ],
)
def test_what_is_malformed_is_said_with_its_place(kept: Kept, format: str, value: Any, said: str) -> None:
    with pytest.raises(DocumentError, match=said) as error:
        list(read(f"{format}:{kept(value)}"))
    assert f"read as {format}" in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1}', "line 1: the fields a, which is no format known here.*squad"),
        ("[1]", "record 1: a number, which"),
        ("\n{\n", "line 3: not JSON"),
        ("not JSON", "line 1: not JSON"),
        (json.dumps(OWN) + "\n\n{", "line 3: not JSON"),
        ("[" * 100_000, "line 1: not JSON"),
    ],
)
def test_what_is_in_no_format_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text(text)
    with pytest.raises(DocumentError, match=said):
        list(read(str(file)))


def test_names_of_formats(kept: Kept, tmp_path: Path) -> None:
    file = kept(OWN)
    assert len(records.load(f"records:{file}", None, 0)) == 1
    with pytest.raises(ConfigError, match=r"there is no format 'sqad'; there are: .*squad-long"):
        records.load(f"sqad:{file}", None, 0)
    with pytest.raises(ConfigError, match="no file"):
        records.load(f"squad:{tmp_path / 'absent'}", None, 0)
    odd = kept(OWN, name="odd:name.jsonl")
    assert len(records.load(odd, None, 0)) == 1


def test_every_format_is_documented() -> None:
    page = (ROOT / "docs" / "howto" / "evaluate.md").read_text()
    formats, _, rest = page.partition("## Your own records")
    assert set(re.findall(r"^\| `([a-z0-9-]+)`", formats, re.MULTILINE)) == {*FORMATS, "niah", "generated"}
    baselines = rest.partition("## Baselines")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([a-z0-9-]+)`", baselines, re.MULTILINE)) == set(BASELINES)
    assert all(f"`{press}`" in baselines for press in (*PRESSES, *MORE_PRESSES))


FIELDS = sorted(
    set(re.findall(r'"(\w+)":', json.dumps([OWN, SQUAD, HOTPOT, MUSIQUE, NQ, SQUALITY, LONGMEMEVAL, LOCOMO])))
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
)


@given(st.sampled_from(sorted(FORMATS)), JSON)
def test_any_json_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, name: str, value: Any) -> None:
    file = tmp_path_factory.getbasetemp() / "any.jsonl"
    file.write_text(json.dumps(value))
    try:
        found = list(read(f"{name}:{file}"))
    except (ConfigError, DocumentError):
        return
    assert all(record.context.strip() and all(q.answers for q in record.questions) for record in found)


@given(st.text(st.characters(exclude_categories=["C"]), min_size=1), st.text(min_size=1, max_size=9))
def test_our_own_records_come_back(
    tmp_path_factory: pytest.TempPathFactory, context: str, answer: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "own.jsonl"
    row = {"id": "x", "context": context, "questions": [{"q": "?", "answers": [answer]}]}
    file.write_text(json.dumps(row))
    if not context.strip():
        return
    (record,) = read(str(file))
    assert record.context == context
    assert [a for q in record.questions for a in q.answers] == [answer.strip()][: bool(answer.strip())]
