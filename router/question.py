"""What a question is about: the words that tell it, and how much each of them does.

People are polite, and say more than they ask. Names and numbers count most; other words count where something
is asked, and together no more than the names do; names elsewhere count half as much as those asked of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import regex

from memkit.text.normalize import UNSPACED, normalize, words, words_at

STOP = frozenset(
    "a an and are as at be been by can could did do does for from had has have he her here him his how i in "
    "is it its know like me my named no not of on or our please she should so tell than that the their them "
    "there they this to us was we were what when where which who whom whose why will with would write you "
    "your called name about question answer text "
    "hi hello hey dear thanks thank sorry ok okay oh cheers greetings "
    "lot really very much too just exactly kindly maybe perhaps possibly also any some moment".split()
)
_ASKING = frozenset("how what when where which who whom whose why".split())
_NAMES = frozenset("will can an so no".split())  # stop words that are names, too, if a question ends with one
_SPLIT = regex.compile(r"(?<=[.!?؟])\s+|(?<=[。！？])\s*|\n+")
_BEGINS = regex.compile(r"(?:^|[.!?:\n。！？؟])[^\w\n]*$")
_LOOK = 8  # characters in front of a word that tell whether it begins a sentence
_MARKS = "?？؟"
_UNSPACED = regex.compile(rf"[{UNSPACED}]")
_STARTS = frozenset(("will", "can"))  # no statement begins with these stop words but as names
_AS_NAME = 0.5  # of a name's weight is its capital's, if that tells: Rose is not a rose
_AS_STOP = 0.75  # and so much of one that is a stop word, too
Weighted = tuple[str, float]
SPECIAL = 3.0  # how often a name or a number counts
ASIDE, ASIDES = 1.0, 0.5  # and how often outside of what is asked, all together at most that share
BEFORE = 0.25  # a word in front of the one that asks: "…, could you tell me where …"


@dataclass(frozen=True)
class _Word:
    """A word of a sentence; ``first``: it begins it, so that its capital tells nothing."""

    text: str
    first: bool

    @property
    def capital(self) -> bool:
        return self.text[0].isupper()

    @property
    def stops(self) -> bool:
        return self.text.lower() in STOP

    @property
    def special(self) -> bool:
        """Whether it is a name or a number, as far as can be seen."""
        return (self.capital and not self.first) or any(c.isdigit() for c in self.text)

    @property
    def letter(self) -> bool:
        """Whether it is one letter that names nobody."""
        if len(self.text) > 1 or self.text.isdigit() or _UNSPACED.match(self.text):
            return False
        return not self.capital or self.text == "I" or (self.text == "A" and self.first)


@dataclass(frozen=True)
class _Sentence:
    """A sentence of a question."""

    text: str
    words: tuple[_Word, ...]

    @property
    def before(self) -> int:
        """Where the last word that asks stands; 0 where none does."""
        return max((at for at, word in enumerate(self.words) if word.text.lower() in _ASKING), default=0)

    @property
    def named(self) -> frozenset[int]:
        """Places of stop words that are names: with a capital that neither a sentence nor a title gives."""
        later = [word for word in self.words if not word.first and word.text != "I"]
        if 2 * sum(word.capital for word in later) > len(later):
            return frozenset()
        return frozenset(
            at
            for at, word in enumerate(self.words)
            if word.stops and word.capital and not word.first and word.text != "I"
        )


def weighted_words(question: str) -> list[Weighted]:
    """The words of a question that tell something, as `memory_words` spells them, with their weights."""
    sentences = _sentences(question)
    asking = _asking(sentences)
    special, ordinary, aside = list[Weighted](), list[Weighted](), list[Weighted]()
    for sentence in sentences:
        named, asks, before = sentence.named, sentence in asking, sentence.before
        for at, word in enumerate(sentence.words):
            if word.letter or (word.stops and at not in named):
                continue
            if not asks:
                aside += _name(word.text, ASIDE, at in named) if word.capital or word.special else []
            elif word.special:
                special += _name(word.text, SPECIAL, at in named)
            else:
                ordinary.append((word.text.lower(), BEFORE if at < before else 1.0))
    if not special and not ordinary and not aside:
        return _last(sentences)
    most = _total(special)
    ordinary = _at_most(ordinary, most) if special else ordinary
    aside = _at_most(aside, ASIDES * most) if special else aside
    return [*special, *ordinary, *aside]


def question_text(question: str) -> str:
    """The sentences of a question in which something is asked; all of it, where none is."""
    return " ".join(sentence.text for sentence in _asking(_sentences(question))) or question


def memory_words(text: str) -> frozenset[str]:
    """The distinct words of a text, in lower case; those with a capital also as they stand, but for stop
    words that only begin a sentence. Of pairs of characters the characters, too."""
    plain = normalize(text)
    found = set[str]()
    for at, word in words_at(plain):
        lower = word.lower()
        found.add(lower)
        if word[0].isupper() and (lower not in STOP or lower in _STARTS or not _begins(plain, at)):
            found.add(word)
        if _UNSPACED.match(word):
            found.update(word)
    return frozenset(found)


def _begins(plain: str, at: int) -> bool:
    return bool(_BEGINS.search(plain[max(at - _LOOK, 0) : at])) if at else True


def _total(weighted: Sequence[Weighted]) -> float:
    return sum(weight for _, weight in weighted)


def _at_most(weighted: Sequence[Weighted], most: float) -> list[Weighted]:
    """The same words, together of no more weight than that."""
    total = _total(weighted)
    share = min(1.0, most / total) if total else 1.0
    return [(word, weight * share) for word, weight in weighted]


def _sentences(question: str) -> list[_Sentence]:
    found = list[_Sentence]()
    for part in _SPLIT.split(normalize(question)):
        if made := tuple(_Word(text, place == 0) for place, text in enumerate(words(part))):
            found.append(_Sentence(part, made))
    return found


def _asking(sentences: Sequence[_Sentence]) -> list[_Sentence]:
    """The sentences with a question mark; without any, those with a word that asks; without that, all."""
    marked = [each for each in sentences if _marked(each.text)]
    return marked or [each for each in sentences if _asks(each)] or list(sentences)


def _marked(text: str) -> bool:
    """Whether a question mark stands behind the last word."""
    for character in reversed(text):
        if character in _MARKS:
            return True
        if character.isalnum():
            return False
    return False


def _asks(sentence: _Sentence) -> bool:
    return any(word.text.lower() in _ASKING for word in sentence.words)


def _last(sentences: Sequence[_Sentence]) -> list[Weighted]:
    """The last word as a name, where no other tells anything: "who is will?"."""
    last = sentences[-1].words[-1].text.lower() if sentences else ""
    return _name(last.capitalize(), SPECIAL, True) if last in _NAMES else []


def _name(word: str, weight: float, stops: bool) -> list[Weighted]:
    """A name's weight, on its word and on its capital."""
    lower, share = word.lower(), _AS_STOP if stops else _AS_NAME
    return [(word, share * weight), (lower, (1 - share) * weight)] if word != lower else [(lower, weight)]
