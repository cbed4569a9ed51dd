"""Text that looks the same is the same: found alike, and one memory."""

from __future__ import annotations

import random
import string
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkit.bank import Bank
from memkit.document import Document
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import DocumentError
from memkit.memory import Memory
from memkit.router.embedders import LexicalEmbedder
from memkit.router.indexing import index
from memkit.router.question import question_text, weighted_words
from memkit.router.retrieval import retrieve
from memkit.text.normalize import boundary, normalize, occurrences, words

EMBEDDER = LexicalEmbedder()
SIMSEM = "Simsem lives in Lasces. Her horse is called Shopux."
ZOË = "Zoë Ångström lives in Malmö."
ALIKE = {
    "decomposed": unicodedata.normalize("NFD", ZOË),
    "zero width": "Zo\u200bë Ång\u2060ström lives in Mal\ufeffmö.",
    "soft hyphens": "Zoë Ång\u00adström lives in Mal\u00admö.",
    "full width": "Ｚｏë Ångström ｌｉｖｅｓ in Malmö.",
    "no-break spaces": "Zoë\u00a0Ångström lives\u202fin Malmö.",
    "a last newline": ZOË + "\n",
    "spaces at the end": ZOË + "  ",
    "variation selectors": "Zoë\ufe0f Ångström lives in Malmö.",
}


def similarity(question: str, *texts: str) -> list[float]:
    return [float(x) for x in EMBEDDER.passages(texts) @ EMBEDDER.question(question)]


# --- one form ----------------------------------------------------------------------------------
@pytest.mark.parametrize("form", ALIKE)
def test_what_looks_the_same_is_one_memory(tmp_path: Path, form: str) -> None:
    with Bank(tmp_path / "bank") as bank:
        kept = [
            bank.remember("mira", document, *index(document, EMBEDDER), embedder=EMBEDDER.name)
            for document in (Document(ZOË), Document(ALIKE[form]))
        ]
        assert [info.id for info in bank.list("mira")] == [kept[0].id] == [kept[1].id]
        assert bank.source("mira", kept[0].id).text == ZOË  # as it was given first
        question = ALIKE[form].strip().replace("lives in", "lives where in")
        (found,) = retrieve(bank, "mira", question, EMBEDDER)
        assert found.similarity > 0.8


@pytest.mark.parametrize("form", ALIKE)
def test_a_source_is_kept_as_it_was_given(tmp_path: Path, form: str) -> None:
    with Bank(tmp_path / "bank") as bank:
        document = Document(ALIKE[form])
        info = bank.remember("mira", document, *index(document, EMBEDDER), embedder=EMBEDDER.name)
        assert bank.source("mira", info.id).text == ALIKE[form]
        assert similarity("Where does Zoë Ångström live?", ALIKE[form])[0] > 0.8


def test_lines_end_alike() -> None:
    assert normalize("a \r\nb\rc\u2028d\n\n") == "a\nb\nc\nd" == normalize("a\nb\nc\nd")


@pytest.mark.parametrize(
    ("one", "other"), [("10²", "102"), ("½", "1⁄2"), ("Café", "Cafe"), ("Mira", "mira"), ("①", "1")]
)
def test_what_looks_different_is_not_the_same(one: str, other: str) -> None:
    assert Document(one).identity != Document(other).identity


@pytest.mark.parametrize("space", [" ", "\t", "\u00a0", "?", "!", "\n", "-", "."])
def test_long_runs_are_read_once(space: str) -> None:
    long = "a" + space * 100_000 + "b"
    assert normalize(long)[0] + normalize(long)[-1] == "ab"
    assert weighted_words(f"Where is Simsem{long}")
    assert Document(long).chunks()


@given(st.text(st.characters(codec="utf-8")))
def test_a_normal_form_is_its_own(text: str) -> None:
    assert normalize(normalize(text)) == normalize(text)
    for form in ("NFC", "NFD"):
        assert normalize(unicodedata.normalize(form, text)) == normalize(text)


@pytest.mark.parametrize("nothing", ["", " \n", "\u200b\u2060\ufeff", "\u00ad\n\u00a0"])
def test_a_text_that_shows_nothing_is_empty(nothing: str) -> None:
    with pytest.raises(DocumentError, match="empty"):
        Document(nothing)


# --- words -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("question", "right", "wrong"),
    [
        ("Where does Anna Maria live?", "Anna-Maria lives in Rome.", "Anders lives in Oslo."),
        ("Where does Anna-Maria live?", "Anna Maria lives in Rome.", "Maria lives in Oslo."),
        ("Where does X live?", "X lives in Rome.", "Y lives in Oslo."),
        ("What did A give B?", "A gave B a pear.", "C gave D an apple."),
        ("Who is Will?", "Will is a baker.", "It will rain tomorrow."),
        ("who is will?", "Will is a baker.", "It will rain tomorrow."),
        ("Who is Rose?", "Rose lives in Osk.", "You can keep a rose in a can."),
        ("Who is Grace?", "Grace lives in Osk.", "They said grace before dinner."),
        ("猫", "私の猫の名前はタマです。", "犬の名前はポチです。"),
        ("Where is Can?", "Can sits in the garden.", "You can sit in the garden."),
        ("Wo wohnt Jürgen?", "Jürgen wohnt in Köln.", "Peter wohnt in Köln."),
        (
            "田中さんはどこに住んでいますか？",
            "田中さんは東京に住んでいます。",
            "鈴木さんは犬を飼っています。",
        ),
        ("王芳住在哪里？", "王芳住在上海。", "李娜喜欢唱歌。"),
        ("सीता कहाँ रहती है?", "सीता दिल्ली में रहती है।", "राम आम खाता है।"),
        ("สมชายอยู่ที่ไหน", "สมชายอยู่ที่เชียงใหม่", "สุดาชอบแมว"),
        ("Где живёт Анна?", "Анна живёт в Туле.", "Иван пьёт чай."),
        ("أين تسكن ليلى؟", "تسكن ليلى في تونس.", "يشرب عمر الشاي."),
    ],
)
def test_names_are_found(question: str, right: str, wrong: str) -> None:
    found = similarity(question, right, wrong)
    assert found[0] >= EMBEDDER.min_similarity
    assert found[0] > found[1]


def test_words_of_scripts_without_spaces_are_pairs() -> None:
    assert list(words("Anna-Maria don't")) == ["Anna", "Maria", "don", "t"]
    assert list(words("東京タワー 私")) == ["東京", "京タ", "タワ", "ワー", "私"]


# --- what is asked -----------------------------------------------------------------------------
POLITE = (
    "Hi! I am planning a trip next week and would like to bring a present to a friend. "
    "Could you tell me where {}?"
)


@pytest.mark.parametrize(
    "question",
    [
        POLITE.format("Simsem lives"),
        "I am planning a trip next week and will bring a present, so could you tell me where Simsem lives?",
        "hi! i am planning a trip. could you tell me where simsem lives",
        "My friend Simsem is coming over for dinner with all of her family. Where does she live?",
        "Hi, I'm Bob from Acme. Where does Simsem live? Thanks a lot in advance!",
        "Dear assistant, I hope that you are well. Where does Simsem live? Best regards, Rolan",
        "Where does Simsem live?",
        "Where does Simsem live? I am asking since Anna, Tom, Peter, Paul, Mary, Rolan, Vekek and Mevrol "
        "want to go to Bergen, Oslo, Paris and London in May 2026, June 2026 and July 2026.",
        "Tell me where Simsem lives.\n\nBest regards,\nJohn Miller\nSales Manager, ACME Corporation\n12 Main "
        "Street, Springfield, IL 62701\nPhone: 555-0100",
    ],
)
def test_politeness_hides_no_memory(question: str) -> None:
    assert similarity(question, SIMSEM)[0] >= 0.5


@pytest.mark.parametrize(
    "question",
    [
        "hi there i am planning a trip next week with my family and we would like to bring a present to a "
        "friend so could you tell me where simsem lives thanks a lot this would really help us with the "
        "preparations",
        "Could you be so kind as to please look into your notes and tell me, if it is not too much trouble "
        "and you have a minute, in which town exactly it is that simsem lives at the moment?",
        "Hallo! Ich plane nächste Woche eine Reise und möchte einer Freundin ein Geschenk mitbringen. "
        "Könntest du mir sagen, wo Simsem wohnt?",
    ],
)
def test_a_name_in_a_long_sentence_is_found(question: str) -> None:
    assert similarity(question, SIMSEM)[0] >= EMBEDDER.min_similarity


def test_a_name_that_is_nowhere_finds_nothing(tmp_path: Path) -> None:
    text = "Keldor is a town with {} bridges, {} mills and a market. It was founded by Rolan, who kept bees."
    draw = random.Random(0)
    names = ["".join(draw.choices(string.ascii_lowercase, k=6)).capitalize() for _ in range(100)]
    with Bank(tmp_path / "bank") as bank:
        for number in range(10):
            document = Document(text.format(number, 100 + number) + " So it goes, and goes on." * 12)
            bank.remember("mira", document, *index(document, EMBEDDER), embedder=EMBEDDER.name)
        for name in names:
            best = retrieve(bank, "mira", f"Who is {name}?", EMBEDDER)[0]
            assert best.similarity < EMBEDDER.min_similarity  # whatever the hashed words say


@pytest.mark.parametrize(
    "question",
    [
        POLITE.format("to find good coffee"),
        "Hi! I am bringing a horse to a friend who lives far away. What is the capital of Portugal?",
        "Where does Zorblax live?",
        "Thanks! You are very kind.",
    ],
)
def test_chat_without_a_bearing_pulls_no_memory_in(question: str) -> None:
    assert similarity(question, SIMSEM)[0] < EMBEDDER.min_similarity


def test_the_sentence_that_asks_is_told_from_the_others() -> None:
    assert question_text(POLITE.format("Simsem lives")) == "Could you tell me where Simsem lives?"
    assert question_text("Simsem's horse") == "Simsem's horse"
    found = dict(weighted_words("I met Bo. Where is Simsem?"))
    assert found == {"Bo": 0.5, "bo": 0.5, "Simsem": 1.5, "simsem": 1.5}


@pytest.mark.parametrize("question", ["Where does Simsem live?", POLITE.format("Simsem lives")])
def test_a_polite_question_is_answered_from_the_memory(
    tmp_path: Path, engine: TransformersEngine, question: str
) -> None:
    with Memory(tmp_path / "bank", user="mira", engine=engine) as memory:
        info = memory.remember(SIMSEM, compile=False)
        answer = memory.ask(question, max_tokens=1)
        assert (answer.route, answer.trace.memory_id) == ("text", info.id)
        assert memory.ask(POLITE.format("to find good coffee"), max_tokens=1).route == "none"


# --- passages ----------------------------------------------------------------------------------
def test_a_word_is_not_cut_where_a_passage_ends() -> None:
    name = "Bartholomew-Zebedee"
    for before in range(465, 482):
        text = "x " * (before // 2) + "x" * (before % 2) + name + " lives here" + " and there" * 60
        parts = [text[span.start : span.end] for span in Document(text).chunks()]
        assert "".join(parts) == text
        assert max(map(len, parts)) <= 480
        assert any(name in part for part in parts)


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=200), st.integers(1, 40))
def test_passages_hold_all_of_a_text(text: str, size: int) -> None:
    end = boundary(text, 0, size)
    assert 0 < end <= max(size, 1) or end == len(text)


def test_no_character_is_cut_in_two() -> None:
    family = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
    parts = [family * 40][0]
    assert boundary(parts, 0, 12) in (10, 5)
    assert np.isfinite(EMBEDDER.passages([parts])).all()


# --- places ------------------------------------------------------------------------------------
def test_places_of_what_looks_the_same() -> None:
    text = unicodedata.normalize("NFD", "Zoë met Zoé. ") + "Ｚｏë left.\r\nZo\u200bë"
    found = [normalize(text[start:end]) for start, end in occurrences(text, "Zoë")]
    assert found == ["Zoë", "Zoë", "Zoë"]
    assert occurrences("Zoé", "Zoe") == []
    assert occurrences("a\r\nb", "a\nb") == [(0, 4)]
    assert occurrences("anything", "\u200b") == []
