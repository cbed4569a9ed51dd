"""Records, and the JSON values that they are parsed from.

A `Node` knows its place in the file, so that parsers say what they expect and a malformed file is refused
with the line, or the record, and the field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from memkit.document import Document
from memkit.errors import DocumentError

QUESTION = "{question}"  # stands for a question in the wording of all
METRICS = ("contains", "em", "f1", "rouge_l")  # what a record can be scored with
LONG_ANSWER = 30  # words: an answer beyond that is never contained in another
_KINDS = {dict: "an object", list: "a list", bool: "a truth value", type(None): "null"}


@dataclass(frozen=True)
class Question:
    """A question with its accepted answers; ``category`` is the data set's own type of question."""

    text: str
    answers: tuple[str, ...]
    category: str = ""


@dataclass(frozen=True)
class Record:
    """A context and what is asked about it; ``unanswerable`` questions it does not answer.

    ``metric``, one of `METRICS`, is what its answers are scored with.
    """

    id: str
    context: str
    questions: tuple[Question, ...]
    unanswerable: tuple[str, ...] = ()
    metric: str = "contains"

    def worded(self, wording: str) -> Record:
        """The record with its questions put so."""
        asked = (replace(q, text=wording.replace(QUESTION, q.text)) for q in self.questions)
        return replace(self, questions=tuple(asked))


class MalformedError(ValueError):
    """A value that is not what a format says it is; the message names its place."""


@dataclass(frozen=True)
class Node:
    """A JSON value, found at ``path`` in the ``number``-th line or record of a file."""

    value: Any
    unit: str  # line or record
    number: int
    path: str = ""

    def __contains__(self, key: str) -> bool:
        """Whether this is an object with a value, other than null, for ``key``."""
        return isinstance(self.value, dict) and self.value.get(key) is not None

    def __getitem__(self, key: str) -> Node:
        """Raises `MalformedError` where this is no object, or lacks the field."""
        present = key in self.fields()
        child = replace(self, value=self.value.get(key), path=f"{self.path}.{key}" if self.path else key)
        if child.value is None:
            raise child.malformed("is null" if present else "is missing")
        return child

    def get(self, key: str) -> Node | None:
        """The value of a field that may be absent or null."""
        return self[key] if key in self else None  # noqa: SIM401 # this is that method

    def fields(self) -> list[str]:
        """Raises `MalformedError` where this is no object."""
        if not isinstance(self.value, dict):
            raise self.malformed(f"is {self.kind}, where an object is expected")
        return list(self.value)

    def items(self) -> list[Node]:
        """Raises `MalformedError` where this is no list."""
        if not isinstance(self.value, list):
            raise self.malformed(f"is {self.kind}, where a list is expected")
        return [replace(self, value=v, path=f"{self.path}[{i}]") for i, v in enumerate(self.value)]

    def text(self) -> str:
        """A string, or a number as one. Raises `MalformedError` for all else."""
        if isinstance(self.value, bool) or not isinstance(self.value, str | int | float):
            raise self.malformed(f"is {self.kind}, where text is expected")
        return str(self.value)

    def texts(self) -> tuple[str, ...]:
        """A text or a list of texts, without repetitions and blanks."""
        found = self.items() if isinstance(self.value, list) else [self]
        return tuple(dict.fromkeys(text for node in found if (text := node.text().strip())))

    def optional(self, *keys: str) -> str:
        """The text of the first field that is there, or nothing."""
        return next((self[key].text() for key in keys if key in self), "")

    @property
    def id(self) -> str:
        """What its file calls it, or its number."""
        return self.optional("id", "_id") or str(self.number)

    @property
    def kind(self) -> str:
        return _KINDS.get(type(self.value), "a number" if isinstance(self.value, int | float) else "text")

    def malformed(self, what: str) -> MalformedError:
        """The error to raise about this value."""
        place = f"{self.unit} {self.number}"
        return MalformedError(f"{place}: {self.path} {what}" if self.path else f"{place}: it {what}")


@dataclass(frozen=True)
class Format:
    """A format by name: ``matches`` recognises its first value, ``records`` reads one value.

    ``records`` raises `MalformedError`.
    """

    name: str
    about: str
    matches: Callable[[Node], bool]
    records: Callable[[Node], Iterable[Record]]


def record(node: Node, id: str, context: str, asked: Iterable[Question], metric: str | None = None) -> Record:
    """A record of ``node``, unanswerable questions apart. Raises `MalformedError` for a text no bank takes.

    Without a ``metric``, long answers are scored by ROUGE-L and others by whether they are contained.
    """
    try:
        text = Document(context).text
    except DocumentError as error:
        raise node.malformed(f"cannot be remembered: {error}") from error
    questions = tuple(asked)
    answerable = tuple(q for q in questions if q.answers)
    unanswerable = tuple(q.text for q in questions if not q.answers)
    return Record(id, text, answerable, unanswerable, metric or _metric(answerable))


def _metric(asked: tuple[Question, ...]) -> str:
    shortest = [min(len(answer.split()) for answer in q.answers) for q in asked]
    return "rouge_l" if shortest and min(shortest) > LONG_ANSWER else "contains"


def titled(paragraphs: Iterable[tuple[str, str]]) -> str:
    """One context of several paragraphs, each under its title."""
    return "\n\n".join(f"{title}\n{text}" if title else text for title, text in paragraphs)


def numbered(records: Iterable[Record]) -> Iterator[Record]:
    """The records, with ids that differ: later ones of the same id are numbered."""
    seen = dict[str, int]()
    for found in records:
        seen[found.id] = seen.get(found.id, 0) + 1
        yield found if seen[found.id] == 1 else replace(found, id=f"{found.id}#{seen[found.id]}")
