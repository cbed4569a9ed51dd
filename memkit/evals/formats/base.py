"""Evaluation records, and the JSON values that they are parsed from.

A `Node` knows its position in the file, so that errors of malformed files name the line or record, and the
field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from memkit.document import Document
from memkit.errors import DocumentError

QUESTION = "{question}"  # the placeholder in a template of questions
METRICS = ("contains", "em", "f1", "rouge_l")
LONG_ANSWER = 30  # words; longer gold answers are practically never contained in an answer
_KINDS = {dict: "an object", list: "a list", bool: "a truth value", type(None): "null"}


@dataclass(frozen=True)
class Question:
    """A question with its gold answers; ``category`` is the data set's type of question.

    ``unworded`` is the question as the data set has it, where ``text`` is a wording of it.
    """

    text: str
    answers: tuple[str, ...]
    category: str = ""
    unworded: str = ""


@dataclass(frozen=True)
class Record:
    """A context with questions; it does not answer the ``unanswerable`` ones.

    ``metric``, one of `METRICS`, is the score that counts for its answers.
    """

    id: str
    context: str
    questions: tuple[Question, ...]
    unanswerable: tuple[str, ...] = ()
    metric: str = "contains"

    def worded(self, wording: str) -> Record:
        """The record with its questions in a template that contains `QUESTION`."""
        questions = (
            replace(q, text=wording.replace(QUESTION, q.text), unworded=q.text) for q in self.questions
        )
        return replace(self, questions=tuple(questions))


class MalformedError(ValueError):
    """A value that violates a format; the message names its position."""


@dataclass(frozen=True)
class Node:
    """A JSON value at ``path`` in the ``number``-th line or record of a file."""

    value: Any
    unit: str  # line or record
    number: int
    path: str = ""

    def __contains__(self, key: str) -> bool:
        """Whether this is an object with a non-null value for ``key``."""
        return isinstance(self.value, dict) and self.value.get(key) is not None

    def __getitem__(self, key: str) -> Node:
        """The value of a field. Raises `MalformedError` if this is not an object or lacks the field."""
        present = key in self.fields()
        child = replace(self, value=self.value.get(key), path=f"{self.path}.{key}" if self.path else key)
        if child.value is None:
            raise child.malformed("is null" if present else "is missing")
        return child

    def get(self, key: str) -> Node | None:
        """The value of a field that may be absent or null."""
        return self[key] if key in self else None  # noqa: SIM401 # this is that method

    def fields(self) -> list[str]:
        """The names of an object's fields. Raises `MalformedError` if this is not an object."""
        if not isinstance(self.value, dict):
            raise self.malformed(f"is {self.kind}, where an object is expected")
        return list(self.value)

    def items(self) -> list[Node]:
        """The members of a list. Raises `MalformedError` if this is not a list."""
        if not isinstance(self.value, list):
            raise self.malformed(f"is {self.kind}, where a list is expected")
        return [replace(self, value=v, path=f"{self.path}[{i}]") for i, v in enumerate(self.value)]

    def text(self) -> str:
        """A string, or a number as a string. Raises `MalformedError` for other values."""
        if isinstance(self.value, bool) or not isinstance(self.value, str | int | float):
            raise self.malformed(f"is {self.kind}, where text is expected")
        return str(self.value)

    def texts(self) -> tuple[str, ...]:
        """A text or a list of texts, without duplicates and blanks."""
        nodes = self.items() if isinstance(self.value, list) else [self]
        return tuple(dict.fromkeys(text for node in nodes if (text := node.text().strip())))

    def optional(self, *keys: str) -> str:
        """The text of the first of these fields that is present, or ""."""
        return next((self[key].text() for key in keys if key in self), "")

    @property
    def id(self) -> str:
        """The id in the file, or else the number."""
        return self.optional("id", "_id") or str(self.number)

    @property
    def kind(self) -> str:
        return _KINDS.get(type(self.value), "a number" if isinstance(self.value, int | float) else "text")

    def malformed(self, what: str) -> MalformedError:
        """An error about this value."""
        place = f"{self.unit} {self.number}"
        return MalformedError(f"{place}: {self.path} {what}" if self.path else f"{place}: it {what}")


@dataclass(frozen=True)
class Format:
    """A file format: ``matches`` recognises it by its first value, ``records`` parses one value.

    ``records`` raises `MalformedError`.
    """

    name: str
    about: str
    matches: Callable[[Node], bool]
    records: Callable[[Node], Iterable[Record]]


def record(
    node: Node, id: str, context: str, questions: Iterable[Question], metric: str | None = None
) -> Record:
    """A record, with questions that have no answers as unanswerable ones.

    The default ``metric`` is ROUGE-L for long answers and ``contains`` for others. Raises `MalformedError`
    for a context that is no valid document.
    """
    try:
        text = Document(context).text
    except DocumentError as error:
        raise node.malformed(f"cannot be remembered: {error}") from error
    questions = tuple(questions)
    answerable = tuple(q for q in questions if q.answers)
    unanswerable = tuple(q.text for q in questions if not q.answers)
    return Record(id, text, answerable, unanswerable, metric or _metric(answerable))


def _metric(questions: tuple[Question, ...]) -> str:
    shortest = [min(len(answer.split()) for answer in q.answers) for q in questions]
    return "rouge_l" if shortest and min(shortest) > LONG_ANSWER else "contains"


def titled(paragraphs: Iterable[tuple[str, str]]) -> str:
    """Join (title, text) paragraphs to one context, each below its title."""
    return "\n\n".join(f"{title}\n{text}" if title else text for title, text in paragraphs)


def numbered(records: Iterable[Record]) -> Iterator[Record]:
    """The records with unique ids: repetitions of an id are numbered."""
    counts = dict[str, int]()
    for each in records:
        counts[each.id] = counts.get(each.id, 0) + 1
        yield each if counts[each.id] == 1 else replace(each, id=f"{each.id}#{counts[each.id]}")
