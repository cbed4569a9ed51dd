"""The nano model inside the package: its size, its skills, the documents' example."""

from __future__ import annotations

import json

import pytest

from memkit.engine.base import Request
from memkit.engine.transformers.engine import TransformersEngine
from memkit.evals import nano_card
from memkit.models.loading import NANO_FOLDER
from memkit.models.nano import world
from memkit.models.nano.documents import Generator
from memkit.models.nano.general import GENERAL

pytestmark = pytest.mark.wheel


@pytest.fixture(scope="module")
def nano() -> TransformersEngine:
    return TransformersEngine("nano")


def answers(nano: TransformersEngine, context: str | None, questions: list[str]) -> list[str]:
    requests = [Request(question, context=context, max_tokens=24) for question in questions]
    return [completion.text for completion in nano.generate(requests)]


def test_it_reads_facts_it_has_never_seen(nano: TransformersEngine) -> None:
    generator, right, total = Generator(20_260, "eval"), 0, 0
    for _ in range(5):
        document = generator.document(facts=8, people=3, fillers=6)
        asked = list(generator.questions(document))
        got = answers(nano, document.text, [question.text for question in asked])
        right += sum(a == q.answer for a, q in zip(got, asked, strict=True))
        total += len(asked)
    assert right >= 0.9 * total  # measured: 0.97 of 800


def test_it_knows_nothing_without_the_text_and_says_so(nano: TransformersEngine) -> None:
    generator = Generator(20_261, "eval")
    asked = list(generator.questions(generator.document(facts=8, people=3)))
    got = answers(nano, None, [question.text for question in asked])
    assert not any(a == q.answer for a, q in zip(got, asked, strict=True))
    assert got.count(world.IDK) >= 7


def test_it_answers_general_questions(nano: TransformersEngine) -> None:
    got = answers(nano, None, [question for question, _ in GENERAL])
    assert sum(a == expected for a, (_, expected) in zip(got, GENERAL, strict=True)) >= 0.95 * len(GENERAL)


def test_it_reads_the_example_of_the_documents(nano: TransformersEngine) -> None:
    text = "Simsem lives in Lasces. Her horse is called Shopux."
    questions = ["Where does Simsem live?", "What is Simsem's horse called?", "Where does Simsem work?"]
    assert answers(nano, text, questions) == ["Lasces", "Shopux", world.IDK]


def test_it_is_small_and_its_card_is_that_of_its_evaluation() -> None:
    assert sum(file.stat().st_size for file in NANO_FOLDER.iterdir()) <= 10_000_000
    assert (NANO_FOLDER / "README.md").read_text() == nano_card.render(NANO_FOLDER)
    rates = {row["skill"]: row["rate"] for row in json.loads((NANO_FOLDER / "eval.json").read_text())["rows"]}
    assert rates["facts, full context"] >= 0.95
    assert rates["facts, no context"] <= 0.02
