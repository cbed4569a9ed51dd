"""What of a text is stated, and what is asked: of a conversation, only statements are worth remembering.

Rules without a model. A question mark of any script makes a question. Without one a sentence is taken for a
question only where its first words leave little doubt, so that no fact is lost.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

from memkit.text.dialogue_act_words import (
    HEADED,
    KNOWN,
    LEAD,
    LEADING,
    MINE,
    POLITE,
    REPORTS,
    TITLE,
    WITHIN,
    asks_unmarked,
)

LONGEST = 1000  # characters of a sentence that are looked at to see how it begins
QUESTION_MARKS = "?？؟⁇⁈⁉‽¿՞፧⸮꘏꛷᥅\u037e"
_GREEK = re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]")
_CLOSERS = "\"'”’»)\\]」』"
# A sentence ends at a line's end, and behind its mark: in scripts without spaces at once.
# Each run of marks is read once: from its first mark, and never again with fewer of them.
_MARK = r"[.!?…‽⁇⁈⁉؟՞።፧।;\u037e]"
_END = re.compile(rf"(?<!{_MARK}){_MARK}++[{_CLOSERS}]*+(?=\s|$)|[。！？｡]++[{_CLOSERS}]*+|(?=[¿])|\n")
_QUOTED = re.compile(rf"[{QUESTION_MARKS}][!.]*[\"'”’»」』]$")
_LINK_LAST = re.compile(r"(?:https?://|www\.)[^\s?]+\?$")
_TAG = re.compile(
    r"(?:,? (?:right|correct)|, (?:ok|okay|yes|no|you know|isn't it|is that right"
    r"|(?:do|did|am|are|have|was)(?:n't)? (?:i|we)))[?？!]*$",
    re.IGNORECASE,
)
_ABBREVIATION = re.compile(r"(?:^|[\s(])(?:[^\W\d_]|Dr|Mrs?|Ms|Prof|St|Jr|Sr|vs|No|etc|e\.g|i\.e|approx)\.$")
_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
_CLAUSE = re.compile(r"[,;:–—]\s+(?:(?:and|but|so|or)\s+)?|\s-\s|\s+(?:and|but|so)\s+")

_FILLERS = frozenset(
    "hi hello hey dear please ok okay so and but well now also then thanks thank sorry um uh hm hmm oh yes "
    "no yeah yep alright actually btw pls plz again excuse".split()
)
_FILLER_PHRASES = (
    "by the way ",
    "thank you ",
    "excuse me ",
    "good morning ",
    "good evening ",
    "one more thing ",
)
_POLITE = _FILLERS | POLITE
_AUXILIARY = frozenset(
    "is are was were am do does did can could will would shall should may might must has have had isn't "
    "aren't wasn't weren't don't doesn't didn't can't couldn't won't wouldn't shouldn't hasn't haven't "
    "hadn't isnt arent dont doesnt didnt cant couldnt wont wouldnt".split()
)
_SUBJECTS = frozenset(
    "i you u he she it we they there this that these those anyone anybody someone somebody everyone".split()
)
_OPENERS = frozenset(  # that stand before a subject in questions, and seldom in statements that leave one out
    "is are do does can could would isn't aren't don't doesn't can't couldn't wouldn't".split()
)
_NAMED = frozenset("did will has was were had should didn't won't hasn't wasn't weren't".split())
_DETERMINERS = frozenset("the my your his her our their its any some a an".split())
_WHEN = frozenset("when where why how whom".split())
_WHAT = frozenset("what which whose".split())
_MEASURES = frozenset(
    "many much old long far often tall big large high deep heavy soon late fast come about".split()
)
_SHORT_WH = frozenset("whats wheres whos hows whens whys whatre wherere".split())
_SHORT_FORMS = ("'s", "’s", "'re", "’re", "'d", "’d", "'ll", "’ll")
_WH = frozenset("what which who whom whose where when why how if whether".split())
_TELL = re.compile(
    r"(?:(?:can|could|would|will) you |i(?:'d| would) like you to )?(?:please |kindly )?"
    r"(?:tell me|show me|give me|let me know|explain|describe|summari[sz]e|remind me (?:of|about|wh\w+|how))"
    r"\b"
)
_WONDER = re.compile(
    r"i (?:wonder|am wondering|was wondering|want to know|need to know|(?:would|'d) like to know)\b"
    r"|i'(?:m wondering|d like to know)\b"
)
_ORDER = re.compile(  # to find something out or to put it in words
    r"(?:please |kindly )?"
    r"(?:list|find|look up|look for|search for|check|say|translate|write|suggest|recommend|help me) "
    r"(?:all|the|my|me|her|his|their|our|its|a|an|some|every|each|out|with|find|understand|"
    rf"{'|'.join(sorted(_WH))})\b"
    r"|(?:please |kindly )?name (?:all|some|every|each|two|three|the)\b"
)
_APPENDED = re.compile(r"[,;] (?:please )?(?:can|could|would|will) you \w+")  # "I forgot it, can you tell me"
_PREPOSITION = re.compile(r"\A(?:in|at|on|to|for|with|from|of|by|since|until|about) (?=(?:wh\w+|how) )")
_SO_DO = re.compile(r"\s*(?:so|nor|neither) (?:is|are|was|were|do|does|did|can|have|has)\b", re.IGNORECASE)
_NOTE = re.compile(  # asks to keep what follows, which is a statement
    r"(?:(?:can|could|would|will) you |do |i want you to )?(?:please )?"
    r"(?:remember|note|keep in mind|memori[sz]e|write down|do not forget|don't forget|save)\b[ ,:]+"
    rf"(?!(?:{'|'.join(sorted(_WH))})\b)"
)
_GIVEN = frozenset("since because as although though while".split())  # before what is so
_LEANING = frozenset(  # first words of what leans on another clause
    "if when whenever while because since as although though unless until before after given in on at for "
    "with from by about hi hello hey dear thanks thank regarding considering".split()
)
# Of other languages only words that begin a question and hardly ever anything else.
_FOREIGN = frozenset(
    "wo woher wohin wer wen wem wessen wann warum wieso weshalb welche welcher welches welchen "
    "où pourquoi combien quel quelle quels quelles "
    "dónde adónde quién quiénes cuándo cuánto cuánta cuántos cuántas cómo qué cuál cuáles "
    "onde quem quanto quantos quantas dov'è chi "
    "где кто куда откуда почему зачем сколько какой какая какое какие чей чья де хто чому "
    "waar wie waarom hoeveel nerede kim neden kde hur varför vem kuka missä".split()
)
_FOREIGN_STARTS = ("est-ce ", "qu'est-ce ", "por qué ", "क्या ", "hva ", "hvor ", "hvem ")
_FOREIGN_ENDS = tuple(
    "吗 嗎 呢 么 ですか ますか でしたか ましたか ませんか でしょうか だろうか 니까 나요 "
    "ไหม มั้ย หรือไม่ หรือเปล่า".split()
)


def extract_statements(text: str) -> str:
    """What of a text is stated: its sentences as they stand, without those that ask or only greet."""
    kept = list[str]()
    for sentence, space in _sentences(text):
        stated = _stated(sentence)
        if stated == sentence:
            kept.append(sentence + space)
        elif stated:
            kept.append(stated + ". ")
    whole = "".join(kept).strip()
    return whole if _WORD.search(whole) else ""


def is_question(text: str) -> bool:
    """Whether any sentence of a text asks for something."""
    return any(_asks(sentence) for sentence, _ in _sentences(text))


def _sentences(text: str) -> list[tuple[str, str]]:
    """The sentences in order, each with the space behind it; together they are the text."""
    ends = [0]
    for match in _END.finditer(text):
        if match.end() <= ends[-1] or not _ends(text, match):
            continue
        end = match.end()
        while end < len(text) and text[end].isspace():
            end += 1
        ends.append(end)
    cuts = ends if ends[-1] == len(text) else [*ends, len(text)]
    pieces = [text[a:b] for a, b in pairwise(cuts)]
    return [(piece.rstrip(), piece[len(piece.rstrip()) :]) for piece in pieces]


def _ends(text: str, match: re.Match[str]) -> bool:
    """Whether a sentence ends at a mark: not at an abbreviation's, nor at a quoted question's."""
    mark, before = match.group(), text[max(match.start() - 12, 0) : match.start()]
    after = text[match.end() : match.end() + 8].lstrip()
    if mark == ".":
        return not _ABBREVIATION.search(before + mark)
    if mark.rstrip(_CLOSERS) != mark and mark not in "\n":
        return not after[:1].islower()
    return ";" not in mark or bool(_GREEK.search(before[-2:]))


def _asks(sentence: str) -> bool:
    text = _plain(sentence)
    if _NOTE.match(text) or KNOWN.match(text) or _headed(text):
        return False
    return _marked(sentence) or _begins(sentence) or _continues(sentence) is not None


def _headed(text: str) -> bool:
    """Whether a fact stands behind what looks like an order: "how to reach me: +47 123"."""
    head = HEADED.match(text)
    return head is not None and not (_marked(text) or _begins(text[head.end() :]))


def _continues(sentence: str) -> re.Match[str] | None:
    """Where a question without a mark begins behind a statement: "my name is Tom where does Simsem live"."""
    head = sentence[:LONGEST]
    for match in WITHIN.finditer(head):
        before = head[: match.start()].rstrip(" ,;:-–—")
        told = REPORTS.search(before) or set(before.lower().split()) & _WH
        if len(before.split()) >= 3 and not told and _clause(before):
            return match
    return None


def _greets(sentence: str) -> bool:
    words = [word.lower() for word in _WORD.findall(sentence[:LONGEST])]
    return 0 < len(words) <= 5 and len(sentence) < LONGEST and _POLITE.issuperset(words)


def _stated(sentence: str) -> str:
    """The sentence if it states something, else a clause before its question that does, else ""."""
    if not _asks(sentence):
        return "" if _greets(sentence) else sentence
    if len(sentence) > LONGEST:
        return ""
    tag = _TAG.search(sentence)
    if tag and _words(sentence)[0].lower() in MINE and _clause(sentence[: tag.start()]):
        return sentence[: tag.start()]
    if (match := _continues(sentence)) and not _begins(sentence[: match.start()]):
        return sentence[: match.start()].rstrip(" ,;:-–—")
    for match in _CLAUSE.finditer(sentence):
        before, after = sentence[: match.start()], sentence[match.end() :]
        if _clause(before) and len(_WORD.findall(after)) >= 3 and _begins(after, strict=True):
            return before
        if (_words(after) or [""])[0].lower() in MINE and _clause(after) and LEADING.match(_plain(before)):
            return after  # "I wonder where she is, but I live in Osk"
    return ""


def _clause(text: str) -> bool:
    """Whether a part of a sentence can stand alone, as "I moved to Osk" can and "if I go to Osk" cannot."""
    words = _words(text)
    if len(words) < 3 or _asks(text):
        return False
    first = words[0]
    if first.lower() in _GIVEN:
        return _clause(text.strip()[len(first) :])
    if LEAD.fullmatch(_plain(text)):
        return False
    named = first[0].isupper() and first.lower() not in _LEANING
    return named or first.lower() in _SUBJECTS | _DETERMINERS


def _marked(sentence: str) -> bool:
    tail = _tail(sentence)
    if _LINK_LAST.search(sentence[-LONGEST:]) or _quotes(sentence):
        return False
    if any(mark in QUESTION_MARKS for mark in tail) or "¿" in sentence or "՞" in sentence:
        return True
    return ";" in tail and bool(_GREEK.search(sentence))


def _quotes(sentence: str) -> bool:
    """Whether the question mark at a sentence's end is of a name or a saying that it quotes."""
    if not _QUOTED.search(sentence):
        return False
    opening = next((at for at, c in enumerate(sentence) if c in '"“„«「『' or c in "'‘"), 0)
    return opening > 0 and sentence[opening - 1].isspace() and bool(_WORD.search(sentence[:opening]))


def _tail(sentence: str) -> str:
    """What stands behind a sentence's last word: its marks, brackets and smileys."""
    at = len(sentence)
    while at and not (sentence[at - 1].isalnum() or unicodedata.category(sentence[at - 1])[0] == "M"):
        at -= 1
    return sentence[at:]


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFC", text))


def _plain(sentence: str) -> str:
    """A sentence in lower case with single spaces, without greetings in front of it."""
    text = unicodedata.normalize("NFC", sentence[:LONGEST])
    text = " ".join(text.replace("’", "'").lower().split())
    while True:
        text = text.lstrip(" ,.!-–—:;¡¿\"'“(")
        if title := TITLE.match(text):
            text = text[title.end() :]
            continue
        word = _WORD.match(text)
        if phrase := next((each for each in _FILLER_PHRASES if text.startswith(each)), ""):
            text = text[len(phrase) :]
        elif word and word.group() in _FILLERS and len(text) > word.end():
            text = text[word.end() :]
            named = re.match(r" [^\W\d_]+(?: [^\W\d_]+)?, ", text)  # "hi Rolan, where ..."
            if named and word.group() in ("hi", "hello", "hey", "dear"):
                text = text[named.end() :]
        else:
            return text


def _begins(sentence: str, strict: bool = False) -> bool:
    """Whether a sentence begins as questions and requests to tell something do."""
    text = _plain(sentence)
    if _TELL.match(text) or _WONDER.match(text) or _ORDER.match(text):
        return True
    if not strict and _APPENDED.search(text):
        return True
    if not strict and (_foreign(sentence, text) or asks_unmarked(text)):
        return True
    if _SO_DO.match(sentence) and len(_words(sentence)) <= 4:
        return False
    words = [word.replace("’", "'") for word in _words(_PREPOSITION.sub("", text))]
    given = [word.replace("’", "'") for word in _words(sentence)][-len(words) :] if words else []
    if len(words) < 2:
        return False
    first, second, rest = words[0], words[1], words[2:]
    if first in _SHORT_WH:
        return True
    if first in _AUXILIARY:
        return _inverted(words, given, sentence)
    if any(first.endswith(form) and first[: -len(form)] in _WH for form in _SHORT_FORMS):
        return True
    if first == "who":
        return second in _AUXILIARY or not strict
    if first in _WHEN:
        return second in _AUXILIARY or (first == "how" and second in _MEASURES | {"to"})
    if first in _WHAT:
        if (
            first == "which"
            and second in ("is", "was")
            and (strict or {*rest[:1]} & {*_WH, "because", "that"})
        ):
            return False
        named = given[1][:1].isupper() or second in _SUBJECTS | {"a", "an"}
        return second in _AUXILIARY | {"about"} or (not named and any(w in _AUXILIARY for w in words[2:5]))
    return False


def _inverted(words: list[str], given: list[str], sentence: str) -> bool:
    """Whether an auxiliary stands in front of a subject: not in "Did my homework", "Had I known, ..."."""
    first, second = words[0], words[1]
    if second in _SUBJECTS:
        if first == "do" and second in ("it", "this", "that", "these", "those"):
            return False
        return not (first in ("had", "should", "were") and "," in sentence)
    if first in ("is", "isn't", "are", "aren't") and second in ("a", "an"):
        return False  # "isn't a fan of cats"
    if first in _OPENERS and second in _DETERMINERS:
        return True
    if given[1][:1].isupper() and len(words) > 2:
        if first == "will" and given[0][0].isupper():
            return False  # this may be a person
        return first in _OPENERS | _NAMED
    return first in ("does", "doesn't") and len(words) > 2


def _foreign(sentence: str, text: str) -> bool:
    ending = sentence.rstrip(" .。!！~～…\"'”’」』")
    if ending.endswith(_FOREIGN_ENDS) or text.startswith(_FOREIGN_STARTS):
        return True
    words = _words(text)
    return len(words) > 1 and words[0] in _FOREIGN and "," not in sentence and not sentence.endswith("!")
