"""Generated documents of nano's world as training texts, short ones first."""

from __future__ import annotations

import random

from memkit.compilers.meanpool.texts import Question, Split, Text
from memkit.models.nano import world
from memkit.models.nano.documents import Document, Generator
from memkit.models.nano.general import GENERAL

GENERAL_SHARE = 0.5  # share of texts with a general question
UNANSWERED_SHARE = 0.15  # share of texts, for each of two kinds of questions that the text does not answer
LOG_SHARE, UPDATE_SHARE = 0.06, 0.12
# Share of lists of made-up words, three for each fact, among the texts to reconstruct. A sentence can be
# guessed from a vague memory; a list requires the exact spelling of every word.
WORDS_SHARE = 0.4


class SyntheticDataset:
    """Draws documents of up to ``facts[0]`` facts at the start of training, and up to ``facts[1]`` at its
    end.

    Training never sees a word of the evaluation split of the vocabulary (`memkit.models.nano.words`).
    """

    def __init__(self, split: Split, seed: int, facts: tuple[int, int]) -> None:
        self.seed, self.facts = seed, facts
        self.split = split

    def __call__(self, rng: random.Random, task: str, reached: float) -> Text:
        generator = Generator(rng.getrandbits(48), "train" if self.split == "train" else "eval")
        fewest, most = self.facts
        longest = max(fewest, round(fewest + (most - fewest) * min(reached * 1.5, 1.0)))
        facts = rng.randint(1, longest)
        if task == "reconstruction" and self.split == "train" and rng.random() < WORDS_SHARE:
            return Text(generator.words(3 * facts))
        document = self._document(generator, facts)
        names = ", ".join(dict.fromkeys(fact.person.name for fact in document.facts))
        return Text(document.text, names, tuple(self._questions(generator, document)))

    def _document(self, generator: Generator, facts: int) -> Document:
        rng = generator.rng
        people = min(facts, rng.randint(1, 4))
        if rng.random() < LOG_SHARE:
            return generator.log(facts, people, rng.randint(0, 2))
        updates = int(rng.random() < UPDATE_SHARE)
        return generator.document(facts, people, rng.randint(0, facts), updates)

    def _questions(self, generator: Generator, document: Document) -> list[Question]:
        rng = generator.rng
        drawn = list(generator.questions(document))
        drawn += [q for q in (generator.two_hop(document), *generator.reverses(document, 1)) if q]
        # A larger share on short texts makes the model answer everything with "I do not know".
        unanswered = [generator.missing(document), generator.confusable(document)]
        drawn += [q for q in unanswered if q and rng.random() < UNANSWERED_SHARE]
        questions = [Question(q.text, (q.answer,)) for q in drawn]
        if rng.random() < GENERAL_SHARE:
            question, answer = rng.choice(GENERAL)
            questions.append(Question(question, (answer,)))
        if rng.random() < 0.1:
            polite = rng.choice(world.POLITE)
            questions = [Question(polite + q.text, q.answers) for q in questions]
        return questions
