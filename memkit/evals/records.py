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
    "NO_DRIFT",
    "QUESTION",
    "Question",
    "Record",
    "generated",
    "load",
    "load_queries",
    "load_unanswerable",
]

NO_DRIFT = "none"  # instead of a file of general questions: drift is not measured

TRIES = 1000  # at a document


def load(source: str, limit: int | None, seed: int, questions: int | None = None) -> list[Record]:
    """Records of ``source``; at most ``limit`` with questions that have answers, ``questions`` of each.

    A source is a file in a format that `memkit.evals.formats.registry` knows, ``FORMAT:FILE``,
    ``niah:FILE[:LENGTHS[:DEPTHS[:N]]]`` or ``generated[:N[:FACTS]]``. Raises `ConfigError` for one that is
    absent or holds no such records, and `DocumentError` for a malformed file.
    """
    chosen = list(islice((r for r in _records(source, seed) if r.questions), limit))
    if not chosen:
        raise ConfigError(f"{source} holds no records with questions that have answers")
    return [replace(r, questions=r.questions[:questions]) for r in chosen]


def load_unanswerable(source: str, limit: int | None = None) -> list[Record]:
    """Records that have questions without an answer. Raises as `load`."""
    chosen = list(islice((r for r in _records(source, 0) if r.unanswerable), limit))
    if not chosen:
        raise ConfigError(f"{source} holds no records with questions that have no answers")
    return chosen


def _records(source: str, seed: int) -> Iterator[Record]:
    kind = source.partition(":")[0]
    if kind == "generated":
        return generated(*_wanted(source, seed))
    if kind == niah.NAME and kind != source:
        return niah.haystacks(niah.Grid.of(source), seed)
    return numbered(read(source))


def load_queries(source: str, limit: int | None = None) -> list[Question]:
    """Questions about nothing in particular: JSON objects with ``q`` or, as AlpacaEval's, ``instruction``.

    They may have an ``input``, which is put below, and ``answers``. Raises `ConfigError` for a source that is
    absent or empty and `DocumentError` for a malformed one.
    """
    try:
        found = [_query(row) for row in islice(files.rows(expanded(source)), limit)]
    except MalformedError as error:
        raise DocumentError(f"{source}, {error}") from error
    if not found:
        raise ConfigError(f"{source} holds no questions")
    return found


def _query(row: Node) -> Question:
    text = row["instruction" if "instruction" in row else "q"].text()
    below = row.optional("input")
    answers = row["answers"].texts() if "answers" in row else ()
    return Question(f"{text}\n\n{below}" if below else text, answers)


def _wanted(source: str, seed: int) -> tuple[int, int, tuple[int, int]]:
    """What ``generated[:N[:FACTS]]`` asks of `generated`."""
    form = re.fullmatch(r"generated(?::(\d+)(?::(\d+)(?:-(\d+))?)?)?", source)
    count, fewest = (int(form[1] or 20), int(form[2] or 8)) if form else (0, 0)
    most = int(form[3] or fewest) if form else 0
    if not count or not 1 <= fewest <= most:
        raise ConfigError(f"give generated:N, or generated:N:FACTS as 8 or 8-16, not {source!r}")
    return count, seed, (fewest, most)


def generated(count: int, seed: int, facts: tuple[int, int] = (8, 8)) -> Iterator[Record]:
    """Documents of nano's world in held-out words, 19 to 32 tokens a fact (8 facts: 150 to 256)."""
    from memkit.models.loading import NANO_FOLDER
    from memkit.models.nano.documents import Generator

    tokens = _counter(NANO_FOLDER)
    generator = Generator(seed + 7_000_000, "eval")
    aside = Generator(seed + 8_000_000, "eval")  # draws of its own, so that the documents stay the same
    made = tries = 0
    while made < count:
        tries += 1
        if tries > TRIES * (made + 1):
            raise ConfigError(f"no documents of {facts[0]} facts have the usual length; ask for more facts")
        stated = generator.rng.randint(*facts) if facts[0] < facts[1] else facts[0]
        people, fillers = generator.rng.randint(2, 4), generator.rng.randint(5, 14)
        document = generator.document(stated, people, fillers)
        if not 18.75 * stated <= tokens(document.text) <= 32 * stated:
            continue
        made += 1
        asked = tuple(Question(q.text, (q.answer,)) for q in generator.questions(document))
        missing = tuple(aside.missing(document).text for _ in range(2))
        yield Record(f"generated-{seed}-{made}", document.text, asked, missing)


def _counter(folder: Path) -> Any:
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.exists():  # without nano's tokenizer, about four characters a token
        return lambda text: len(text) // 4
    tokenizer = Tokenizer.from_file(str(file))
    return lambda text: len(tokenizer.encode(text).ids)
