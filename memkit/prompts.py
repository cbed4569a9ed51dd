"""What memkit asks a frozen model about a text, to teach a memory and to test it."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
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
PROBES: tuple[str, ...] = (  # general questions that no compiler regularizes with
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
MAX_PASSAGE = 400  # characters of a sentence that a request quotes
HELD_OUT_SHARE = 8  # one question in eight


def request_about(sentence: str) -> str:
    """A request for a question about one sentence of a text."""
    return WRITE_QUESTION_ABOUT.format(passage=sentence[:MAX_PASSAGE].strip())


def study_prompts(model: str, text: str, count: int) -> list[str]:
    """``count`` requests for questions about a text, in turn about all of it and about one sentence.

    Left to itself a model asks about the same few facts again and again; going through the sentences
    covers the rest. nano understands only the first of `STUDY_PROMPTS`.
    """
    whole = STUDY_PROMPTS[:1] if model == "nano" else STUDY_PROMPTS
    spans = sentences(text)
    step = max(len(spans) / max(count // 2, 1), 1.0)
    chosen = [spans[int(i * step)] for i in range(int(len(spans) / step))]
    about = [request_about(text[span.start : span.end]) for span in chosen] or list(whole)
    return [about[i // 2 % len(about)] if i % 2 else whole[i // 2 % len(whole)] for i in range(count)]


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
    made = dict[str, None]()
    for _ in range(count):
        (words,) = random.choices(kept, weights)
        length = random.randint(*PHRASE_WORDS)
        start = random.randrange(max(1, len(words) - length + 1))
        phrase = " ".join(words[start : start + length])[:MAX_PASSAGE].strip(".,;:!?")
        made[random.choice(PHRASE_QUESTIONS).format(phrase=phrase)] = None
    return list(made)


QuestionKind = Literal["factual", "listing", "two_hop", "unanswered"]
_REQUEST_OF: dict[QuestionKind, str] = {
    "listing": WRITE_LISTING,
    "two_hop": WRITE_TWO_HOP,
    "unanswered": WRITE_UNANSWERED,
}
FACTUAL_SHARE = 0.7  # of the questions, where other kinds are asked for, too


def question_requests(model: str, text: str, count: int, kinds: Sequence[QuestionKind]) -> list[str]:
    """``count`` requests for questions about a text, most of them factual if that is among the ``kinds``.

    nano was not taught to write questions for lists; its share of those goes to the others.
    """
    others = [k for k in kinds if k != "factual" and not (model == "nano" and k == "listing")]
    factual = count if not others else round(FACTUAL_SHARE * count) if "factual" in kinds else 0
    requests = study_prompts(model, text, factual)
    return requests + [_REQUEST_OF[others[i % len(others)]] for i in range(count - factual)]


def paraphrase_requests(model: str, questions: Sequence[str]) -> list[str]:
    """A request to rephrase each question; none of nano, which was not taught to."""
    return [] if model == "nano" else [WRITE_PARAPHRASE.format(question=q) for q in questions]


def probes(model: str) -> tuple[str, ...]:
    """General questions whose answers a memory must leave alone; nano knows only its own."""
    if model == "nano":
        from memkit.models.nano.general import HELD_OUT

        return tuple(question for question, _ in HELD_OUT[::4])
    return PROBES


def is_held_out(question: str) -> bool:
    """Whether a question about a text must never be trained on, by a hash of its words.

    Compilers stop early on such questions and the admission gate asks them, so that what it
    measures was not learned by heart.
    """
    words = " ".join(question.lower().split())
    return zlib.crc32(words.encode()) % HELD_OUT_SHARE == 0
