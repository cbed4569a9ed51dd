"""What a model is told of a user's memories, and what of its own words is worth remembering.

A conversation is remembered while it goes on. So what was only asked, and what the run itself said, stands in
front of what is known already; neither is told, and neither hides a memory that answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from langchain_core.messages import BaseMessage

from memkit.document import sentences
from memkit.errors import NotFoundError
from memkit.integrations.langchain.messages import role_of, text_of
from memkit.memory import Memory
from memkit.pipeline.answer import RecalledText, SearchResult
from memkit.text.dialogue_acts import extract_statements
from memkit.text.normalize import folded, words

OTHERS = 4  # memories that are looked at beside the one that is recalled
CLOSE = 0.5  # of the best score, that another memory's passage must reach
ROOM = 1000  # characters up to which other memories' passages are added
STEM = 4  # letters: words that begin alike are taken for one
_ENTRY = re.compile(r"^(\d{4}-\d\d-\d\d ([^:\n]{1,64}): )", re.MULTILINE)
_COMMON = frozenset(
    "a an and are as at be been but by can could did do does for from had has have he her here him "
    "his how i in is it its know me my no not of on or our please she should so sorry tell than that "
    "the their them there they this to us was we were what when where which who whom whose why will "
    "with would yes you your".split()
)
_THINK, _THOUGHT = "<think>", "</think>"
_NOTHING = re.compile(  # a model's words for having nothing to say
    r"\b(?:i|we)(?:'m| am| was|'re| are)? "
    r"(?:afraid i |sorry,? |not (?:sure|able|aware|certain|familiar)\b|unable\b|"
    r"(?:do not|don't|did not|didn't|cannot|can't|could not|couldn't|have not|haven't) "
    r"(?:actually |currently |really |yet )?(?:know|have|find|found|recall|remember|see|seem|answer|"
    r"help|access|tell|determine|provide|say|been|any)\b|have no\b|found no\b|know nothing\b)"
    r"|\b(?:there is|there's|there are|i see) no (?:\w+ )?"
    r"(?:information|mention|records?|data|details?|memory)\b"
)
_ANNOUNCES = re.compile(  # what it is going to do
    r"(?:(?:sure|ok|okay|certainly|of course|alright|right|well|thanks|thank you)[,.!:]? )*"
    r"(?:let me|let us|let's|i'll|i will|i am going to|i'm going to|allow me to|i can|i need to|"
    r"i should|i have to|i am|i'm|one moment|just a moment|a moment|hold on|please wait)"
    r"(?:,? (?:now|first|quickly|just|please|try to|let me|while i|i'll))* ?"
    r"(?:look\w*|check\w*|search\w*|find\w*|see|think\w*|get|consult\w*|recall|verify|retriev\w*|fetch\w*|help|"
    r"answer|query\w*|call\w*|use|using|$|[.,!…])"
)


@dataclass(frozen=True)
class _Line:
    """A passage, or an entry of a running memory, in the form in which it is told and compared."""

    told: str
    words: str


def statements_in(messages: Sequence[BaseMessage]) -> dict[str, str]:
    """What each speaker said in a run, in the form that `recall_texts` compares."""
    said = dict[str, str]()
    for message in messages:
        speaker = role_of(message)
        said[speaker] = f"{said.get(speaker, '')}|{_words(text_of(message))}"
    return said


def recall_texts(memory: Memory, question: str, said: Mapping[str, str]) -> str:
    """The passages that bear on a question: of the memory that the gate would use, and others' close to them.

    Of running memories neither questions are told nor what was ``said`` in this run. Where only those stood
    in front of everything else, the gate has judged by them, and the other passages are told in their place.
    """
    recalled, found = memory.recall(question), memory.search(question, OTHERS)
    first = _recalled(memory, recalled, found, said)
    misled = bool(found) and found[0].memory.running and not _lines(found[0].text, True, said)
    if not first and recalled.memory_id is None and not misled:
        return ""
    least = memory.router.embedder.min_similarity if misled else CLOSE * found[0].score if found else 0.0
    lines, room = list(first), ROOM - sum(len(line.told) for line in first)
    for each in found:
        if each.memory.id == recalled.memory_id or each.score < least:
            continue
        for line in _lines(each.text, each.memory.running, said):
            if len(line.told) <= room and not any(line.words in known.words for known in lines):
                lines.append(line)
                room -= len(line.told)
    return "\n".join(line.told for line in lines)


def new_statements(memory: Memory, text: str, asked: str, introduction: str = "") -> str:
    """The sentences of a model's answer that say more than it was told, and than is remembered already.

    Nor are those news that say that it knows nothing, or what it is going to do.
    """
    kept = list[str]()
    for sentence in _sentences(extract_statements(recall_message(text))):
        plain = folded(sentence).replace("’", "'")
        if _NOTHING.search(plain) or _ANNOUNCES.match(plain):
            continue
        if new := _stems(sentence) - _stems(asked) - _stems(introduction):
            known = " ".join(found.text for found in memory.search(f"{sentence} {asked}", OTHERS))
            if new - _stems(known):
                kept.append(sentence)
    return " ".join(kept)


def recall_message(text: str) -> str:
    """A model's answer without ``<think>...</think>``, also where one of the two is left out."""
    kept, at = list[str](), 0
    first, begins = text.find(_THOUGHT), text.find(_THINK)
    if first >= 0 and not 0 <= begins < first:  # templates may open the thought for it
        at = first + len(_THOUGHT)
    while (start := text.find(_THINK, at)) >= 0:
        kept.append(text[at:start])
        end = text.find(_THOUGHT, start)
        if end < 0:
            return " ".join(kept).strip()
        at = end + len(_THOUGHT)
    return " ".join([*kept, text[at:]]).strip()


def _recalled(
    memory: Memory, recalled: RecalledText, found: Sequence[SearchResult], said: Mapping[str, str]
) -> list[_Line]:
    if recalled.memory_id is None:
        return []
    running = next((each.memory.running for each in found if each.memory.id == recalled.memory_id), None)
    if running is None:
        try:
            running = memory.get(recalled.memory_id).running
        except NotFoundError:  # forgotten in the meantime
            return []
    return _lines(recalled.text, running, said)


def _lines(text: str, running: bool, said: Mapping[str, str]) -> list[_Line]:
    """A passage whole; of a running memory the entries in it that state something which was not said."""
    if not running:
        return [_Line(text, _words(text))] if text.strip() else []
    latest = dict[str, _Line]()  # of entries that say the same
    ends = [match.start() for match in _ENTRY.finditer(text)]
    for start, end in zip([0, *ends], [*ends, len(text)], strict=True):
        entry = text[start:end].strip()
        head = _ENTRY.match(entry)
        begin, speaker = (head.group(1), head.group(2)) if head else ("", "")
        before = said.get(speaker, "") if head else "|".join(said.values())  # or a part of a long entry
        stated = extract_statements(entry[len(begin) :])
        form = _words(stated)
        if any(_words(each).strip() and _words(each) not in before for each in _sentences(stated)):
            latest.pop(form, None)
            latest[form] = _Line(begin + stated, form)
    return list(latest.values())


def _sentences(text: str) -> list[str]:
    return [text[span.start : span.end].strip() for span in sentences(text)]


def _words(text: str) -> str:
    """A text's words with spaces around each, so that whole words are compared."""
    return f" {' '.join(words(folded(text)))} "


def _stems(text: str) -> set[str]:
    return {word[:STEM] for word in words(folded(text)) if len(word) > 1 and word not in _COMMON}
