"""Evaluation records: documents with questions, from files in many formats or generated."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from memkit.config import expanded
from memkit.errors import ConfigError, DocumentError
from memkit.evals.formats import files, niah
from memkit.evals.formats.base import QUESTION, MalformedError, Node, Question, Record, numbered
from memkit.evals.formats.registry import read

__all__ = [
    "GENERAL",
    "NO_DRIFT",
    "QUESTION",
    "Question",
    "Record",
    "answerable",
    "generated",
    "load",
    "load_queries",
    "load_unanswerable",
]

GENERAL = "general"  # in place of a file of general questions: memkit's own
NO_DRIFT = "none"  # in place of a file of general questions: drift is not measured

MAX_TRIES = 1000  # for each generated document


def load(source: str, limit: int | None, seed: int, questions: int | None = None) -> list[Record]:
    """At most ``limit`` records with answerable questions, ``questions`` of each.

    ``source`` is a file in a format of `memkit.evals.formats.registry`, ``FORMAT:FILE``,
    ``niah:FILE[:LENGTHS[:DEPTHS[:N]]]`` or ``generated[:N[:FACTS]]``; ``seed`` is for the last two. Raises
    `ConfigError` for a missing source or one without such records, and `DocumentError` for a malformed file.
    """
    return list(islice(answerable(source, seed, questions), limit))


def answerable(source: str, seed: int, questions: int | None = None) -> Iterator[Record]:
    """The records with answerable questions, one by one; arguments and errors are those of `load`."""
    found = False
    for record in _records(source, seed):
        if record.questions:
            found = True
            yield replace(record, questions=record.questions[:questions])
    if not found:
        raise ConfigError(f"{source} holds no records with questions that have answers")


def load_unanswerable(source: str, limit: int | None = None) -> list[Record]:
    """At most ``limit`` records with unanswerable questions. Raises like `load`."""
    chosen = list(islice((r for r in _records(source, 0) if r.unanswerable), limit))
    if not chosen:
        raise ConfigError(f"{source} holds no records with questions that have no answers")
    return chosen


def _records(source: str, seed: int) -> Iterator[Record]:
    kind = source.partition(":")[0]
    if kind == "generated":
        return generated(*_parse_generated(source, seed))
    if kind == niah.NAME and kind != source:
        return niah.haystacks(niah.Grid.of(source), seed)
    return numbered(read(source))


def load_queries(source: str, limit: int | None = None) -> list[Question]:
    """General questions from a file: JSON objects with ``q`` or, as in AlpacaEval, ``instruction``.

    An ``input`` is appended to the question; ``answers`` are optional. Raises `ConfigError` for a missing or
    empty source and `DocumentError` for a malformed one.
    """
    try:
        questions = [_query(row) for row in islice(files.rows(expanded(source)), limit)]
    except MalformedError as error:
        raise DocumentError(f"{source}, {error}") from error
    if not questions:
        raise ConfigError(f"{source} holds no questions")
    return questions


def _query(row: Node) -> Question:
    text = row["instruction" if "instruction" in row else "q"].text()
    below = row.optional("input")
    answers = row["answers"].texts() if "answers" in row else ()
    return Question(f"{text}\n\n{below}" if below else text, answers)


def _parse_generated(source: str, seed: int) -> tuple[int, int, tuple[int, int]]:
    """The arguments of `generated` for ``generated[:N[:FACTS]]``."""
    form = re.fullmatch(r"generated(?::(\d+)(?::(\d+)(?:-(\d+))?)?)?", source)
    count, fewest = (int(form[1] or 20), int(form[2] or 8)) if form else (0, 0)
    most = int(form[3] or fewest) if form else 0
    if not count or not 1 <= fewest <= most:
        raise ConfigError(f"give generated:N, or generated:N:FACTS as 8 or 8-16, not {source!r}")
    return count, seed, (fewest, most)


def generated(count: int, seed: int, facts: tuple[int, int] = (8, 8)) -> Iterator[Record]:
    """Generate ``count`` documents of nano's world with held-out words, of 19 to 32 tokens per fact.

    ``facts`` is the range of the number of facts; 8 facts give 150 to 256 tokens. Raises `ConfigError` when
    that length cannot be met.
    """
    from memkit.models.loading import NANO_FOLDER
    from memkit.models.nano.documents import Generator

    tokens = _counter(NANO_FOLDER)
    generator = Generator(seed + 7_000_000, "eval")
    # A separate generator for unanswerable questions, which must not change the documents.
    unanswerable = Generator(seed + 8_000_000, "eval")
    generated_count = tries = 0
    while generated_count < count:
        tries += 1
        if tries > MAX_TRIES * (generated_count + 1):
            raise ConfigError(f"no documents of {facts[0]} facts have the usual length; ask for more facts")
        stated = generator.rng.randint(*facts) if facts[0] < facts[1] else facts[0]
        people, fillers = generator.rng.randint(2, 4), generator.rng.randint(5, 14)
        document = generator.document(stated, people, fillers)
        if not 18.75 * stated <= tokens(document.text) <= 32 * stated:
            continue
        generated_count += 1
        questions = tuple(Question(q.text, (q.answer,)) for q in generator.questions(document))
        missing = tuple(unanswerable.missing(document).text for _ in range(2))
        yield Record(f"generated-{seed}-{generated_count}", document.text, questions, missing)


def _counter(folder: Path) -> Any:
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.exists():  # without nano's tokenizer, about four characters a token
        return lambda text: len(text) // 4
    tokenizer = Tokenizer.from_file(str(file))
    return lambda text: len(tokenizer.encode(text).ids)
