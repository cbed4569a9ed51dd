"""Questions about a text that are made by rule, with the text's own words as their answers.

They cost no decoding: a model too weak to write questions, or a machine too slow, still has a study set that
covers the whole text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from random import Random

from memkit.document import sentences
from memkit.prompts import MAX_PASSAGE

CLOZE = 'Fill the gap in this sentence of the text: "{before}____{after}" Reply with the missing words only.'
FOLLOWS = 'Which sentence of the text follows this one: "{sentence}"'
GAP = "____"
MIN_WORDS = 5  # of a sentence with a gap
GAP_WORDS = 4  # at most

Question = tuple[str, str]  # with its answer


def cloze_questions(text: str, count: int, seed: int) -> list[Question]:
    """At most ``count`` distinct gaps in a text's sentences, in turn; names and numbers before others."""
    random, questions = Random(seed), dict[Question, None]()
    kept = [words for words in _sentences(text) if len(words) >= MIN_WORDS]
    for words in _in_turn(kept, count, random):
        start, stop = _gap(words, random)
        before, after = " ".join(words[:start]), " ".join(words[stop:])
        asked = CLOZE.format(before=before and before + " ", after=after and " " + after)
        questions[asked, " ".join(words[start:stop]).strip(".,;:!?\"'()")] = None
    return [question for question in questions if question[1]]


def following_sentences(text: str, count: int, seed: int) -> list[Question]:
    """At most ``count`` questions for the sentence that follows another, evenly over the text."""
    pairs = list(pairwise(" ".join(words) for words in _sentences(text)))
    chosen = pairs if len(pairs) <= count else sorted(Random(seed).sample(pairs, count), key=pairs.index)
    return list(
        dict.fromkeys((FOLLOWS.format(sentence=first[:MAX_PASSAGE]), second) for first, second in chosen)
    )


def _sentences(text: str) -> Iterator[list[str]]:
    """The words of each sentence."""
    return (text[place.start : place.end].split() for place in sentences(text))


def _in_turn(kept: Sequence[list[str]], count: int, random: Random) -> Iterator[list[str]]:
    """``count`` times a sentence: each once, in random order, before any comes again."""
    for at in range(count if kept else 0):
        if at % len(kept) == 0:
            order = random.sample(kept, len(kept))
        yield order[at % len(kept)]


def _gap(words: Sequence[str], random: Random) -> tuple[int, int]:
    """Which words are left out: two tries, and the one with more names and numbers."""
    tries = list[tuple[int, int]]()
    for _ in range(2):
        length = random.randint(1, min(GAP_WORDS, len(words) // 2))
        start = random.randrange(len(words) - length + 1)
        tries.append((start, start + length))
    return max(
        tries, key=lambda gap: sum(_is_fact(word) for word in words[gap[0] : gap[1]]) / (gap[1] - gap[0])
    )


def _is_fact(word: str) -> bool:
    return word[0].isupper() or any(letter.isdigit() for letter in word)
