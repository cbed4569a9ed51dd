"""Documents of nano's own world as training texts, the short ones first."""

from __future__ import annotations

import random

from memkit.compilers.meanpool.texts import Question, Split, Text
from memkit.models.nano import world
from memkit.models.nano.documents import Document, Generator
from memkit.models.nano.general import GENERAL

GENERAL_SHARE = 0.5  # of the texts are also asked a general question
UNANSWERED_SHARE = 0.15  # of the texts, for each of two kinds of questions that the text does not answer
LOG_SHARE, UPDATE_SHARE = 0.06, 0.12
# Of the texts to rebuild: made-up words in a row, three for a fact. Sentences can be guessed from a vague
# memory; these teach a memory to keep the letters of a name.
WORDS_SHARE = 0.4


class SyntheticDataset:
    """Draws documents of ``facts[0]`` facts at first, and of up to ``facts[1]`` when training ends.

    Training never sees a word of the evaluation's half of the vocabulary (`memkit.models.nano.words`).
    """

    def __init__(self, split: Split, seed: int, facts: tuple[int, int]) -> None:
        self.seed, self.facts = seed, facts
        self.split = split

    def __call__(self, rng: random.Random, task: str, reached: float) -> Text:
        made = Generator(rng.getrandbits(48), "train" if self.split == "train" else "eval")
        fewest, most = self.facts
        longest = max(fewest, round(fewest + (most - fewest) * min(reached * 1.5, 1.0)))
        facts = rng.randint(1, longest)
        if task == "reconstruction" and self.split == "train" and rng.random() < WORDS_SHARE:
            return Text(made.words(3 * facts))
        document = self._document(made, facts)
        names = ", ".join(dict.fromkeys(fact.person.name for fact in document.facts))
        return Text(document.text, names, tuple(self._questions(made, document)))

    def _document(self, made: Generator, facts: int) -> Document:
        rng = made.rng
        people = min(facts, rng.randint(1, 4))
        if rng.random() < LOG_SHARE:
            return made.log(facts, people, rng.randint(0, 2))
        updates = int(rng.random() < UPDATE_SHARE)
        return made.document(facts, people, rng.randint(0, facts), updates)

    def _questions(self, made: Generator, document: Document) -> list[Question]:
        rng = made.rng
        asked = list(made.questions(document))
        asked += [q for q in (made.two_hop(document), *made.reverses(document, 1)) if q]
        # More of these on short texts, and "I do not know" is the answer to everything.
        unanswered = [made.missing(document), made.confusable(document)]
        asked += [q for q in unanswered if q and rng.random() < UNANSWERED_SHARE]
        questions = [Question(q.text, (q.answer,)) for q in asked]
        if rng.random() < GENERAL_SHARE:
            question, answer = rng.choice(GENERAL)
            questions.append(Question(question, (answer,)))
        if rng.random() < 0.1:
            polite = rng.choice(world.POLITE)
            questions = [Question(polite + q.text, q.answers) for q in questions]
        return questions
