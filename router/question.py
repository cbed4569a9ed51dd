"""The significant words of a question, and how much weight each has in a search.

Polite questions have words that do not matter. Names and numbers weigh most. Other words count only in
sentences that ask, and together no more than the names. Names in other sentences weigh less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import regex

from memkit.text.normalize import UNSPACED, normalize, words, words_at

STOP_WORDS = frozenset(
    "a an and are as at be been by can could did do does for from had has have he her here him his how i in "
    "is it its know like me my named no not of on or our please she should so tell than that the their them "
    "there they this to us was we were what when where which who whom whose why will with would write you "
    "your called name about question answer text "
    "hi hello hey dear thanks thank sorry ok okay oh cheers greetings "
    "lot really very much too just exactly kindly maybe perhaps possibly also any some moment".split()
)
_QUESTION_WORDS = frozenset("how what when where which who whom whose why".split())
_FINAL_NAMES = frozenset("will can an so no".split())  # stop words that may be names at the end of a question
_SENTENCE_END = regex.compile(r"(?<=[.!?؟])\s+|(?<=[。！？])\s*|\n+")
_SENTENCE_START = regex.compile(r"(?:^|[.!?:\n。！？؟])[^\w\n]*$")
_LOOKBEHIND = 8  # characters before a word that show whether it starts a sentence
_QUESTION_MARKS = "?？؟"
_UNSPACED = regex.compile(rf"[{UNSPACED}]")
_STARTING_NAMES = frozenset(("will", "can"))  # a statement starts with these stop words only as names
_CAPITAL_SHARE = 0.5  # of a name's weight is on its capitalized form: "Rose" is not "rose"
_CAPITAL_SHARE_STOP = 0.75  # the same for a name that is also a stop word
Weighted = tuple[str, float]
NAME_WEIGHT = 3.0  # of a name or a number in a sentence that asks
ASIDE_WEIGHT = 1.0  # of a name or a number in any other sentence
MAX_ASIDE_SHARE = 0.5  # of the names' total weight, for all words of other sentences together
PREAMBLE_WEIGHT = 0.25  # of a word before the question word: "…, could you tell me where …"


@dataclass(frozen=True)
class _Word:
    """A word of a sentence; ``first`` says that it starts the sentence, so its capital means nothing."""

    text: str
    first: bool

    @property
    def capitalized(self) -> bool:
        return self.text[0].isupper()

    @property
    def is_stop_word(self) -> bool:
        return self.text.lower() in STOP_WORDS

    @property
    def is_name(self) -> bool:
        """Whether it looks like a name or a number."""
        return (self.capitalized and not self.first) or any(c.isdigit() for c in self.text)

    @property
    def is_letter(self) -> bool:
        """Whether it is a single letter that is not a name."""
        if len(self.text) > 1 or self.text.isdigit() or _UNSPACED.match(self.text):
            return False
        return not self.capitalized or self.text == "I" or (self.text == "A" and self.first)


@dataclass(frozen=True)
class _Sentence:
    """A sentence of a question."""

    text: str
    words: tuple[_Word, ...]

    @property
    def preamble(self) -> int:
        """The number of words before the last question word; 0 without one."""
        positions = (at for at, word in enumerate(self.words) if word.text.lower() in _QUESTION_WORDS)
        return max(positions, default=0)

    @property
    def name_positions(self) -> frozenset[int]:
        """Positions of stop words that are names: capitalized, though not by sentence start or title case."""
        later = [word for word in self.words if not word.first and word.text != "I"]
        if 2 * sum(word.capitalized for word in later) > len(later):
            return frozenset()
        return frozenset(
            at
            for at, word in enumerate(self.words)
            if word.is_stop_word and word.capitalized and not word.first and word.text != "I"
        )


def weighted_words(question: str) -> list[Weighted]:
    """The significant words of a question with their weights, in the spelling of `memory_words`."""
    sentences = _sentences(question)
    asking = _asking_sentences(sentences)
    names, ordinary, asides = list[Weighted](), list[Weighted](), list[Weighted]()
    for sentence in sentences:
        name_positions, asks, preamble = sentence.name_positions, sentence in asking, sentence.preamble
        for at, word in enumerate(sentence.words):
            stop_name = at in name_positions
            if word.is_letter or (word.is_stop_word and not stop_name):
                continue
            if not asks:
                if word.capitalized or word.is_name:
                    asides += _name_weights(word.text, ASIDE_WEIGHT, stop_name)
            elif word.is_name:
                names += _name_weights(word.text, NAME_WEIGHT, stop_name)
            else:
                ordinary.append((word.text.lower(), PREAMBLE_WEIGHT if at < preamble else 1.0))
    if not names and not ordinary and not asides:
        return _last_word(sentences)
    most = _total_weight(names)
    ordinary = _cap(ordinary, most) if names else ordinary
    asides = _cap(asides, MAX_ASIDE_SHARE * most) if names else asides
    return [*names, *ordinary, *asides]


def question_text(question: str) -> str:
    """The sentences of a question that ask; the whole question if none does."""
    return " ".join(sentence.text for sentence in _asking_sentences(_sentences(question))) or question


def memory_words(text: str) -> frozenset[str]:
    """The distinct words of a text, in lower case.

    Capitalized words are included as written too, except stop words that start a sentence. In scripts
    without spaces, where words are pairs of characters, the single characters are included too.
    """
    plain = normalize(text)
    found = set[str]()
    for at, word in words_at(plain):
        lower = word.lower()
        found.add(lower)
        named = lower not in STOP_WORDS or lower in _STARTING_NAMES or not _starts_sentence(plain, at)
        if word[0].isupper() and named:
            found.add(word)
        if _UNSPACED.match(word):
            found.update(word)
    return frozenset(found)


def _starts_sentence(plain: str, at: int) -> bool:
    return bool(_SENTENCE_START.search(plain[max(at - _LOOKBEHIND, 0) : at])) if at else True


def _total_weight(weighted: Sequence[Weighted]) -> float:
    return sum(weight for _, weight in weighted)


def _cap(weighted: Sequence[Weighted], most: float) -> list[Weighted]:
    """Scale the weights down so that their sum is at most ``most``."""
    total = _total_weight(weighted)
    share = min(1.0, most / total) if total else 1.0
    return [(word, weight * share) for word, weight in weighted]


def _sentences(question: str) -> list[_Sentence]:
    sentences = list[_Sentence]()
    for part in _SENTENCE_END.split(normalize(question)):
        if tokens := tuple(_Word(text, at == 0) for at, text in enumerate(words(part))):
            sentences.append(_Sentence(part, tokens))
    return sentences


def _asking_sentences(sentences: Sequence[_Sentence]) -> list[_Sentence]:
    """The sentences with a question mark; without any, those with a question word; otherwise all."""
    marked = [sentence for sentence in sentences if _has_question_mark(sentence.text)]
    return marked or [sentence for sentence in sentences if _has_question_word(sentence)] or list(sentences)


def _has_question_mark(text: str) -> bool:
    """Whether a question mark follows the last word."""
    for character in reversed(text):
        if character in _QUESTION_MARKS:
            return True
        if character.isalnum():
            return False
    return False


def _has_question_word(sentence: _Sentence) -> bool:
    return any(word.text.lower() in _QUESTION_WORDS for word in sentence.words)


def _last_word(sentences: Sequence[_Sentence]) -> list[Weighted]:
    """The last word as a name, if no other word is significant: "who is will?"."""
    last = sentences[-1].words[-1].text.lower() if sentences else ""
    return _name_weights(last.capitalize(), NAME_WEIGHT, True) if last in _FINAL_NAMES else []


def _name_weights(word: str, weight: float, is_stop_word: bool) -> list[Weighted]:
    """Split a name's weight between its capitalized and its lower-case form."""
    lower, share = word.lower(), _CAPITAL_SHARE_STOP if is_stop_word else _CAPITAL_SHARE
    return [(word, share * weight), (lower, (1 - share) * weight)] if word != lower else [(lower, weight)]
