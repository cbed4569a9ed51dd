"""Tell statements from questions: only the statements of a conversation are worth remembering.

The rules need no model; their words and patterns are in `memkit.text.dialogue_act_words`. A question mark of
any script makes a question. Without one, a sentence counts as a question only if its first words leave little
doubt, so that no fact is lost.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

from memkit.text import dialogue_act_words as lexicon

MAX_SENTENCE = 1000  # characters of a sentence that the rules read


def extract_statements(text: str) -> str:
    """The sentences of a text that state something, unchanged; those that ask or only greet are left out.

    Of a sentence that states and asks, the clause that states is returned. "" if nothing is stated.
    """
    parts = list[str]()
    for sentence, space in _split_sentences(text):
        statement = _stated_part(sentence)
        if statement == sentence:
            parts.append(sentence + space)
        elif statement:
            parts.append(statement + ". ")
    statements = "".join(parts).strip()
    return statements if lexicon.WORD.search(statements) else ""


def is_question(text: str) -> bool:
    """Whether any sentence of a text asks something."""
    return any(_is_question(sentence) for sentence, _ in _split_sentences(text))


def _split_sentences(text: str) -> list[tuple[str, str]]:
    """The sentences in order, each with the space after it; joined they are the text."""
    ends = [0]
    for match in lexicon.SENTENCE_END.finditer(text):
        if match.end() <= ends[-1] or not _ends_sentence(text, match):
            continue
        end = match.end()
        while end < len(text) and text[end].isspace():
            end += 1
        ends.append(end)
    cuts = ends if ends[-1] == len(text) else [*ends, len(text)]
    pieces = [text[a:b] for a, b in pairwise(cuts)]
    return [(piece.rstrip(), piece[len(piece.rstrip()) :]) for piece in pieces]


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    """Whether a sentence ends at this mark, and not an abbreviation or a quoted question."""
    mark, before = match.group(), text[max(match.start() - 12, 0) : match.start()]
    after = text[match.end() : match.end() + 8].lstrip()
    if mark == ".":
        return not lexicon.ABBREVIATION.search(before + mark)
    if mark.rstrip(lexicon.CLOSING_MARKS) != mark and mark not in "\n":
        return not after[:1].islower()
    return ";" not in mark or bool(lexicon.GREEK.search(before[-2:]))


def _is_question(sentence: str) -> bool:
    text = _normalized(sentence)
    if lexicon.REMEMBER_REQUEST.match(text) or lexicon.DISCLOSURE.match(text) or _is_labelled_fact(text):
        return False
    return (
        _has_question_mark(sentence)
        or _begins_as_question(sentence)
        or _embedded_question(sentence) is not None
    )


def _is_labelled_fact(text: str) -> bool:
    """Whether a fact follows a label that looks like a request: "how to reach me: +47 123"."""
    head = lexicon.LABELLED_FACT.match(text)
    return head is not None and not (_has_question_mark(text) or _begins_as_question(text[head.end() :]))


def _embedded_question(sentence: str) -> re.Match[str] | None:
    """The start of an unmarked question after a statement: "my name is Tom where does Simsem live"."""
    head = sentence[:MAX_SENTENCE]
    for match in lexicon.EMBEDDED_QUESTION.finditer(head):
        before = head[: match.start()].rstrip(" ,;:-–—")
        reported = lexicon.REPORTING_WORDS.search(before) or set(before.lower().split()) & lexicon.WH_WORDS
        if len(before.split()) >= 3 and not reported and _is_clause(before):
            return match
    return None


def _is_greeting(sentence: str) -> bool:
    words = [word.lower() for word in lexicon.WORD.findall(sentence[:MAX_SENTENCE])]
    return 0 < len(words) <= 5 and len(sentence) < MAX_SENTENCE and lexicon.GREETING_WORDS.issuperset(words)


def _stated_part(sentence: str) -> str:
    """The sentence if it only states, or else a clause of it that states something, or else ""."""
    if not _is_question(sentence):
        return "" if _is_greeting(sentence) else sentence
    if len(sentence) > MAX_SENTENCE:
        return ""
    tag = lexicon.TAG_QUESTION.search(sentence)
    if tag and _words(sentence)[0].lower() in lexicon.FIRST_PERSON and _is_clause(sentence[: tag.start()]):
        return sentence[: tag.start()]
    if (match := _embedded_question(sentence)) and not _begins_as_question(sentence[: match.start()]):
        return sentence[: match.start()].rstrip(" ,;:-–—")
    for match in lexicon.CLAUSE_BREAK.finditer(sentence):
        before, after = sentence[: match.start()], sentence[match.end() :]
        if (
            _is_clause(before)
            and len(lexicon.WORD.findall(after)) >= 3
            and _begins_as_question(after, strict=True)
        ):
            return before
        if (
            (_words(after) or [""])[0].lower() in lexicon.FIRST_PERSON
            and _is_clause(after)
            and lexicon.UNCERTAIN_QUESTION.match(_normalized(before))
        ):
            return after  # "I wonder where she is, but I live in Osk"
    return ""


def _is_clause(text: str) -> bool:
    """Whether a part of a sentence can stand alone: "I moved to Osk" can, "if I go to Osk" cannot."""
    words = _words(text)
    if len(words) < 3 or _is_question(text):
        return False
    first = words[0]
    if first.lower() in lexicon.FACTUAL_CONJUNCTIONS:
        return _is_clause(text.strip()[len(first) :])
    if lexicon.UNCERTAINTY.fullmatch(_normalized(text)):
        return False
    named = first[0].isupper() and first.lower() not in lexicon.DEPENDENT_STARTS
    return named or first.lower() in lexicon.SUBJECT_PRONOUNS | lexicon.DETERMINERS


def _has_question_mark(sentence: str) -> bool:
    tail = _trailing_marks(sentence)
    if lexicon.FINAL_LINK.search(sentence[-MAX_SENTENCE:]) or _quotes_question(sentence):
        return False
    if any(mark in lexicon.QUESTION_MARKS for mark in tail) or "¿" in sentence or "՞" in sentence:
        return True
    return ";" in tail and bool(lexicon.GREEK.search(sentence))


def _quotes_question(sentence: str) -> bool:
    """Whether the question mark at a sentence's end belongs to a quoted title or sentence."""
    if not lexicon.QUOTED_QUESTION_END.search(sentence):
        return False
    opening = next((at for at, c in enumerate(sentence) if c in '"“„«「『' or c in "'‘"), 0)
    return opening > 0 and sentence[opening - 1].isspace() and bool(lexicon.WORD.search(sentence[:opening]))


def _trailing_marks(sentence: str) -> str:
    """The marks, brackets and smileys after a sentence's last word."""
    at = len(sentence)
    while at and not (sentence[at - 1].isalnum() or unicodedata.category(sentence[at - 1])[0] == "M"):
        at -= 1
    return sentence[at:]


def _words(text: str) -> list[str]:
    return lexicon.WORD.findall(unicodedata.normalize("NFC", text))


def _normalized(sentence: str) -> str:
    """A sentence in lower case with single spaces, without the greetings and fillers before it."""
    text = unicodedata.normalize("NFC", sentence[:MAX_SENTENCE])
    text = " ".join(text.replace("’", "'").lower().split())
    while True:
        text = text.lstrip(" ,.!-–—:;¡¿\"'“(")
        if title := lexicon.QUESTION_LABEL.match(text):
            text = text[title.end() :]
            continue
        word = lexicon.WORD.match(text)
        if phrase := next((each for each in lexicon.FILLER_PHRASES if text.startswith(each)), ""):
            text = text[len(phrase) :]
        elif word and word.group() in lexicon.FILLERS and len(text) > word.end():
            text = text[word.end() :]
            named = re.match(r" [^\W\d_]+(?: [^\W\d_]+)?, ", text)  # "hi Rolan, where ..."
            if named and word.group() in ("hi", "hello", "hey", "dear"):
                text = text[named.end() :]
        else:
            return text


def _begins_as_question(sentence: str, strict: bool = False) -> bool:
    """Whether a sentence starts like a question or a request for information.

    ``strict`` is for clauses within a sentence: only an unmistakable start counts.
    """
    text = _normalized(sentence)
    if (
        lexicon.TELL_REQUEST.match(text)
        or lexicon.INDIRECT_QUESTION.match(text)
        or lexicon.REQUEST.match(text)
    ):
        return True
    if not strict and lexicon.APPENDED_REQUEST.search(text):
        return True
    if not strict and (_is_foreign_question(sentence, text) or _is_unmarked_question(text)):
        return True
    if lexicon.SO_DO.match(sentence) and len(_words(sentence)) <= 4:
        return False
    words = [word.replace("’", "'") for word in _words(lexicon.WH_PREPOSITION.sub("", text))]
    given = [word.replace("’", "'") for word in _words(sentence)][-len(words) :] if words else []
    if len(words) < 2:
        return False
    first, second, rest = words[0], words[1], words[2:]
    if first in lexicon.CONTRACTED_WH:
        return True
    if first in lexicon.AUXILIARIES:
        return _is_inverted(words, given, sentence)
    if any(first.endswith(form) and first[: -len(form)] in lexicon.WH_WORDS for form in lexicon.CONTRACTIONS):
        return True
    if first == "who":
        return second in lexicon.AUXILIARIES or not strict
    if first in lexicon.WH_ADVERBS:
        return second in lexicon.AUXILIARIES or (first == "how" and second in lexicon.HOW_MEASURES | {"to"})
    if first in lexicon.WH_DETERMINERS:
        if (
            first == "which"
            and second in ("is", "was")
            and (strict or {*rest[:1]} & {*lexicon.WH_WORDS, "because", "that"})
        ):
            return False
        named = given[1][:1].isupper() or second in lexicon.SUBJECT_PRONOUNS | {"a", "an"}
        return second in lexicon.AUXILIARIES | {"about"} or (
            not named and any(w in lexicon.AUXILIARIES for w in words[2:5])
        )
    return False


def _is_inverted(words: list[str], given: list[str], sentence: str) -> bool:
    """Whether an auxiliary comes before a subject; not so in "Did my homework" and "Had I known, ..."."""
    first, second = words[0], words[1]
    if second in lexicon.SUBJECT_PRONOUNS:
        if first == "do" and second in ("it", "this", "that", "these", "those"):
            return False
        return not (first in ("had", "should", "were") and "," in sentence)
    if first in ("is", "isn't", "are", "aren't") and second in ("a", "an"):
        return False  # "isn't a fan of cats"
    if first in lexicon.QUESTION_AUXILIARIES and second in lexicon.DETERMINERS:
        return True
    if given[1][:1].isupper() and len(words) > 2:
        if first == "will" and given[0][0].isupper():
            return False  # this may be a person
        return first in lexicon.QUESTION_AUXILIARIES | lexicon.NAME_AUXILIARIES
    return first in ("does", "doesn't") and len(words) > 2


def _is_foreign_question(sentence: str, text: str) -> bool:
    ending = sentence.rstrip(" .。!！~～…\"'”’」』")
    if ending.endswith(lexicon.FOREIGN_QUESTION_ENDS) or text.startswith(lexicon.FOREIGN_QUESTION_STARTS):
        return True
    words = _words(text)
    return (
        len(words) > 1
        and words[0] in lexicon.FOREIGN_WH
        and "," not in sentence
        and not sentence.endswith("!")
    )


def _is_unmarked_question(text: str) -> bool:
    """Whether a clause or a word makes this lower-case sentence without a question mark a question."""
    bare = text.strip(" .…\"'”’)]」』。！!~～")
    if lead := lexicon.UNCERTAIN_QUESTION.match(bare):
        return not lexicon.OTHER_CLAUSE.search(bare, lead.end())
    if any(pattern.match(bare) for pattern in lexicon.FOREIGN_QUESTIONS):
        return not lexicon.OTHER_CLAUSE.search(bare.replace(", ", " ", 1))
    if (
        len(bare) <= lexicon.SHORT_UNSPACED
        and lexicon.UNSPACED_WH.search(bare)
        and not lexicon.UNSPACED_STATEMENT.search(bare)
    ):
        return True
    words = bare.split()
    if (
        lexicon.OTHER_CLAUSE.search(bare)
        or len(words) > lexicon.SHORT_SENTENCE
        or len(words) < 3
        or text.rstrip().endswith("!")
    ):
        return False
    if lexicon.FINAL_WH.search(bare) and not lexicon.FINAL_WH_IN_STATEMENT.search(bare):
        return True
    later = {"is", "are", "was", "were", "has", "have", "had", "will", "would", "can"} & set(words[2:-1])
    return len(words) <= 6 and bool(lexicon.BARE_QUESTION.match(bare)) and not later
