"""Choose what a model reads from a user's memories, and which of its sentences to remember.

A conversation is remembered while it goes on, so its own questions and statements rank above older entries.
They are filtered out here, so that they do not hide the memory that answers.
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

OTHER_MEMORIES = 4  # memories that are searched beside the one that the gate chooses
NEAR_BEST = 0.5  # share of the best score that another memory's passage must reach
MAX_CHARACTERS = 1000  # of recalled text, beyond which no other memory's passage is added
STEM_LENGTH = 4  # letters; words with the same start count as the same
_ENTRY = re.compile(r"^(\d{4}-\d\d-\d\d ([^:\n]{1,64}): )", re.MULTILINE)
_STOP_WORDS = frozenset(
    "a an and are as at be been but by can could did do does for from had has have he her here him "
    "his how i in is it its know me my no not of on or our please she should so sorry tell than that "
    "the their them there they this to us was we were what when where which who whom whose why will "
    "with would yes you your".split()
)
_THINK_START, _THINK_END = "<think>", "</think>"
_NO_ANSWER = re.compile(  # a model says that it has no answer
    r"\b(?:i|we)(?:'m| am| was|'re| are)? "
    r"(?:afraid i |sorry,? |not (?:sure|able|aware|certain|familiar)\b|unable\b|"
    r"(?:do not|don't|did not|didn't|cannot|can't|could not|couldn't|have not|haven't) "
    r"(?:actually |currently |really |yet )?(?:know|have|find|found|recall|remember|see|seem|answer|"
    r"help|access|tell|determine|provide|say|been|any)\b|have no\b|found no\b|know nothing\b)"
    r"|\b(?:there is|there's|there are|i see) no (?:\w+ )?"
    r"(?:information|mention|records?|data|details?|memory)\b"
)
_ANNOUNCEMENT = re.compile(  # a model says what it will do next
    r"(?:(?:sure|ok|okay|certainly|of course|alright|right|well|thanks|thank you)[,.!:]? )*"
    r"(?:let me|let us|let's|i'll|i will|i am going to|i'm going to|allow me to|i can|i need to|"
    r"i should|i have to|i am|i'm|one moment|just a moment|a moment|hold on|please wait)"
    r"(?:,? (?:now|first|quickly|just|please|try to|let me|while i|i'll))* ?"
    r"(?:look\w*|check\w*|search\w*|find\w*|see|think\w*|get|consult\w*|recall|verify|retriev\w*|fetch\w*|help|"
    r"answer|query\w*|call\w*|use|using|$|[.,!…])"
)


@dataclass(frozen=True)
class _Line:
    """A passage or an entry of a running memory: its ``text``, and its normalized words for comparison."""

    text: str
    words: str


def words_by_speaker(messages: Sequence[BaseMessage]) -> dict[str, str]:
    """The normalized words of each speaker in ``messages``, as `recall_passages` takes them."""
    spoken = dict[str, str]()
    for message in messages:
        speaker = role_of(message)
        spoken[speaker] = f"{spoken.get(speaker, '')}|{_normalized(text_of(message))}"
    return spoken


def recall_passages(memory: Memory, question: str, spoken: Mapping[str, str]) -> str:
    """The passages that are relevant to a question, one a line; "" if no memory is.

    They come from the memory that the gate chooses, then from other memories with a similar score. Entries
    of running memories are left out if they only ask, or if they are in ``spoken``, the words of this run
    by speaker (`words_by_speaker`). If the best hit is such an entry, the gate's choice rests on it; then
    the other memories' passages are used instead.
    """
    recalled, hits = memory.recall(question), memory.search(question, OTHER_MEMORIES)
    lines = _chosen_lines(memory, recalled, hits, spoken)
    misled = bool(hits) and hits[0].memory.running and not _lines(hits[0].text, True, spoken)
    if not lines and recalled.memory_id is None and not misled:
        return ""
    min_score = (
        memory.router.embedder.min_similarity if misled else NEAR_BEST * hits[0].score if hits else 0.0
    )
    room = MAX_CHARACTERS - sum(len(line.text) for line in lines)
    for hit in hits:
        if hit.memory.id == recalled.memory_id or hit.score < min_score:
            continue
        for line in _lines(hit.text, hit.memory.running, spoken):
            if len(line.text) <= room and not any(line.words in other.words for other in lines):
                lines.append(line)
                room -= len(line.text)
    return "\n".join(line.text for line in lines)


def new_statements(memory: Memory, text: str, question: str, introduction: str = "") -> str:
    """The sentences of a model's answer ``text`` that add something to ``question`` and to the memories.

    Sentences without an answer, or that announce the next step, are left out. ``introduction`` is the text
    in front of recalled passages; its words are not news either.
    """
    statements = list[str]()
    for sentence in _sentences(extract_statements(strip_thinking(text))):
        plain = folded(sentence).replace("’", "'")
        if _NO_ANSWER.search(plain) or _ANNOUNCEMENT.match(plain):
            continue
        if new := _stems(sentence) - _stems(question) - _stems(introduction):
            hits = memory.search(f"{sentence} {question}", OTHER_MEMORIES)
            if new - _stems(" ".join(hit.text for hit in hits)):
                statements.append(sentence)
    return " ".join(statements)


def strip_thinking(text: str) -> str:
    """A model's answer without ``<think>...</think>``; either tag may be missing."""
    parts, at = list[str](), 0
    first_end, first_start = text.find(_THINK_END), text.find(_THINK_START)
    if first_end >= 0 and not 0 <= first_start < first_end:  # the chat template may write the opening tag
        at = first_end + len(_THINK_END)
    while (start := text.find(_THINK_START, at)) >= 0:
        parts.append(text[at:start])
        end = text.find(_THINK_END, start)
        if end < 0:
            return " ".join(parts).strip()
        at = end + len(_THINK_END)
    return " ".join([*parts, text[at:]]).strip()


def _chosen_lines(
    memory: Memory, recalled: RecalledText, hits: Sequence[SearchResult], spoken: Mapping[str, str]
) -> list[_Line]:
    """The lines of the memory that the gate chooses."""
    if recalled.memory_id is None:
        return []
    running = next((hit.memory.running for hit in hits if hit.memory.id == recalled.memory_id), None)
    if running is None:
        try:
            running = memory.get(recalled.memory_id).running
        except NotFoundError:  # it was forgotten since
            return []
    return _lines(recalled.text, running, spoken)


def _lines(text: str, running: bool, spoken: Mapping[str, str]) -> list[_Line]:
    """A document's passage as one line; a running memory's as the entries that state something unspoken."""
    if not running:
        return [_Line(text, _normalized(text))] if text.strip() else []
    latest = dict[str, _Line]()  # by words: of equal entries the last one
    ends = [match.start() for match in _ENTRY.finditer(text)]
    for start, end in zip([0, *ends], [*ends, len(text)], strict=True):
        entry = text[start:end].strip()
        match = _ENTRY.match(entry)
        prefix, speaker = (match.group(1), match.group(2)) if match else ("", "")
        # Without a prefix it is a part of a long entry, by any speaker.
        earlier = spoken.get(speaker, "") if match else "|".join(spoken.values())
        statements = extract_statements(entry[len(prefix) :])
        key = _normalized(statements)
        sentence_words = [_normalized(sentence) for sentence in _sentences(statements)]
        if any(each.strip() and each not in earlier for each in sentence_words):
            latest.pop(key, None)
            latest[key] = _Line(prefix + statements, key)
    return list(latest.values())


def _sentences(text: str) -> list[str]:
    return [text[span.start : span.end].strip() for span in sentences(text)]


def _normalized(text: str) -> str:
    """The folded words of a text, with spaces around each so that only whole words match."""
    return f" {' '.join(words(folded(text)))} "


def _stems(text: str) -> set[str]:
    return {word[:STEM_LENGTH] for word in words(folded(text)) if len(word) > 1 and word not in _STOP_WORDS}
