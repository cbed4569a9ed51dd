"""The requests that memkit sends to a frozen model, to train a memory of a text and to test it.

`PromptSet` holds those that depend on the model; `memkit.models.prompt_sets` finds a model's own.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from memkit.document import sentences

REPEAT = "Please repeat the context."
WRITE_QUESTION = "Write a question about the text."
WRITE_QUESTION_ABOUT = "Write a question about this: {passage}"
WRITE_TWO_HOP = "Write a question that links two facts in the text."
WRITE_UNANSWERED = "Write a question that the text does not answer."
WRITE_LISTING = "Write a question about the text whose answer is a list."
WRITE_PARAPHRASE = "Write this question in other words: {question}"
STUDY_PROMPTS: tuple[str, ...] = (
    WRITE_QUESTION,
    "Write one short question that the text above answers.",
    "Ask a question about a name, a date or a number in the text.",
    "Write a quiz question about a detail of the text. Reply with the question only.",
)
DRIFT_QUESTIONS: tuple[str, ...] = (  # general questions that no compiler regularizes with
    "What is the capital of Portugal?",
    "Name three vegetables that are green.",
    "Explain why ice floats on water.",
    "What is 23 plus 19?",
    "Give me a synonym for angry.",
    "How many minutes are in two hours?",
    "Who wrote Hamlet?",
    "Translate 'thank you' into French.",
    "What is the smallest planet in the solar system?",
    "Give a tip for saving electricity.",
    "Write a sentence with the word lantern.",
    "What does a thermometer measure?",
)
SHORT_ANSWER = "{question} Answer with a few words from the text above."
MAX_PASSAGE = 400  # characters of a sentence that a request quotes
HELD_OUT_SHARE = 8  # one question in eight is held out


def request_about(sentence: str) -> str:
    """A request for a question about one sentence of a text, of which at most `MAX_PASSAGE` characters."""
    return WRITE_QUESTION_ABOUT.format(passage=sentence[:MAX_PASSAGE].strip())


PHRASE_QUESTIONS: tuple[str, ...] = (
    "What does the text say about {phrase}?",
    "What about {phrase}?",
    "How is {phrase} described?",
    "What is known about {phrase}?",
)
PHRASE_WORDS = (2, 6)


def phrase_questions(text: str, count: int, seed: int) -> list[str]:
    """At most ``count`` distinct questions about phrases of a text: 2 to 6 words of one sentence.

    Phrases are drawn evenly over the text's words.
    """
    random = Random(seed)
    split = [text[span.start : span.end].split() for span in sentences(text)]
    if not (kept := [words for words in split if words]) or not count:
        return []
    weights = [len(words) for words in kept]
    questions = dict[str, None]()
    for _ in range(count):
        (words,) = random.choices(kept, weights)
        length = random.randint(*PHRASE_WORDS)
        start = random.randrange(max(1, len(words) - length + 1))
        phrase = " ".join(words[start : start + length])[:MAX_PASSAGE].strip(".,;:!?")
        questions[random.choice(PHRASE_QUESTIONS).format(phrase=phrase)] = None
    return list(questions)


QuestionKind = Literal["factual", "listing", "two_hop", "unanswered"]
_REQUEST_OF: dict[QuestionKind, str] = {
    "listing": WRITE_LISTING,
    "two_hop": WRITE_TWO_HOP,
    "unanswered": WRITE_UNANSWERED,
}
FACTUAL_SHARE = 0.7  # of the questions, where other kinds are requested too


@dataclass(frozen=True)
class PromptSet:
    """The requests that a model understands, and the general questions that it can answer.

    The defaults suit any instruction-tuned model. A model that follows fewer instructions brings its own.
    """

    question_requests: tuple[str, ...] = STUDY_PROMPTS  # ask for a question about a text
    unsupported: frozenset[QuestionKind] = frozenset()  # kinds of questions that it cannot write
    paraphrase_request: str | None = WRITE_PARAPHRASE  # with {question}; None where it cannot rephrase
    drift_questions: tuple[str, ...] = DRIFT_QUESTIONS  # whose answers a memory must leave alone
    known_answers: tuple[tuple[str, str], ...] = ()  # general questions with the answers it was trained on
    agnostic_queries: tuple[str, ...] = ()  # to regularize compilation with; empty takes the compiler's own
    short_answer: str = SHORT_ANSWER  # with {question}: how evaluations ask for an answer of a few words
    # Forms of an instruction by task of the mean-pool compressor; empty takes the compressor's own.
    instructions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def study_requests(self, text: str, count: int) -> list[str]:
        """``count`` requests for questions about a text, alternately about all of it and about one sentence.

        Left to itself a model asks about the same few facts again and again; going through the sentences
        covers the rest.
        """
        whole, spans = self.question_requests, sentences(text)
        step = max(len(spans) / max(count // 2, 1), 1.0)
        chosen = [spans[int(i * step)] for i in range(int(len(spans) / step))]
        about = [request_about(text[span.start : span.end]) for span in chosen] or list(whole)
        return [about[i // 2 % len(about)] if i % 2 else whole[i // 2 % len(whole)] for i in range(count)]

    def requests(self, text: str, count: int, kinds: Sequence[QuestionKind]) -> list[str]:
        """``count`` requests for questions of these ``kinds`` about a text.

        `FACTUAL_SHARE` of them are factual if that is among the kinds. The share of an `unsupported` kind
        goes to the others.
        """
        others = [kind for kind in kinds if kind != "factual" and kind not in self.unsupported]
        factual = count if not others else round(FACTUAL_SHARE * count) if "factual" in kinds else 0
        requests = self.study_requests(text, factual)
        return requests + [_REQUEST_OF[others[i % len(others)]] for i in range(count - factual)]

    def paraphrase_requests(self, questions: Sequence[str]) -> list[str]:
        """A request to rephrase each question; none where the model cannot."""
        request = self.paraphrase_request
        return [] if request is None else [request.format(question=question) for question in questions]


def is_held_out(question: str) -> bool:
    """Whether a question about a text must never be trained on, by a hash of its words.

    Compilers use such questions for early stopping and the admission gate asks them, so that neither
    measures an answer that was learned by heart.
    """
    words = " ".join(question.lower().split())
    return zlib.crc32(words.encode()) % HELD_OUT_SHARE == 0
