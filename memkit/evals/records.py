"""Evaluation records: documents with questions, from a JSONL file or generated."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from memkit.document import Document
from memkit.errors import ConfigError, DocumentError

TRIES = 1000  # at a document
QUESTION = "{question}"  # stands for a question in the wording of all


@dataclass(frozen=True)
class Asked:
    """A question with its accepted answers."""

    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Record:
    """A context and what is asked about it; ``unanswerable`` questions it does not answer."""

    id: str
    context: str
    questions: tuple[Asked, ...]
    unanswerable: tuple[str, ...] = ()

    def worded(self, wording: str) -> Record:
        """The record with its questions put so."""
        asked = (replace(q, text=wording.replace(QUESTION, q.text)) for q in self.questions)
        return replace(self, questions=tuple(asked))


def load(source: str, limit: int | None, seed: int, questions: int | None = None) -> list[Record]:
    """Records of a file, or of ``generated[:N[:FACTS]]``; at most ``limit``, ``questions`` of each.

    Raises `ConfigError` for a source that is absent and `DocumentError` for a malformed line.
    """
    if source.split(":")[0] == "generated":
        records: Iterator[Record] | Sequence[Record] = generated(*_wanted(source, seed))
    else:
        path = Path(source)
        if not path.is_file():
            raise ConfigError(f"there is no file {source}")
        records = list(_parse(path))
    chosen = [record for record in records if record.questions][:limit]
    if not chosen:
        raise ConfigError(f"{source} holds no records with questions that have answers")
    return [replace(r, questions=r.questions[:questions]) for r in chosen]


def load_unanswerable(source: str, limit: int | None = None) -> list[Record]:
    """Records of a file that have questions without an answer. Raises as `load`."""
    path = Path(source)
    if not path.is_file():
        raise ConfigError(f"there is no file {source}")
    chosen = [record for record in _parse(path) if record.unanswerable][:limit]
    if not chosen:
        raise ConfigError(f"{source} holds no records with questions that have no answers")
    return chosen


def load_queries(source: str, limit: int | None = None) -> list[Asked]:
    """Questions about nothing in particular: a JSON object with ``q`` (and ``answers``, if any) a line.

    Raises `ConfigError` for a source that is absent or empty and `DocumentError` for a malformed line.
    """
    path, found = Path(source), list[Asked]()
    if not path.is_file():
        raise ConfigError(f"there is no file {source}")
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if line.strip():
            try:
                row = json.loads(line)
                found.append(Asked(str(row["q"]), tuple(str(a) for a in row.get("answers", ()))))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise DocumentError(f"{path}, line {number}: not a question ({error!r})") from error
    if not found:
        raise ConfigError(f"{source} holds no questions")
    return found[:limit]


def _parse(path: Path) -> Iterator[Record]:
    with path.open("rb") as lines:  # decoded below, so that a wrong byte has a line number, too
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield _record(json.loads(line), str(number))
            except (ValueError, KeyError, TypeError) as error:
                raise DocumentError(f"{path}, line {number}: not a record ({error!r})") from error


def _record(row: dict[str, Any], fallback: str) -> Record:
    asked = [Asked(str(q["q"]), tuple(str(a) for a in q["answers"])) for q in row["questions"]]
    context = Document(str(row["context"])).text  # refuses what could not be remembered
    # Unanswerable questions have no gold answer to retain.
    return Record(
        str(row.get("id", fallback)),
        context,
        tuple(a for a in asked if a.answers),
        tuple(a.text for a in asked if not a.answers),
    )


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
        asked = tuple(Asked(q.text, (q.answer,)) for q in generator.questions(document))
        missing = tuple(aside.missing(document).text for _ in range(2))
        yield Record(f"generated-{seed}-{made}", document.text, asked, missing)


def _counter(folder: Path) -> Any:
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.exists():  # without nano's tokenizer, about four characters a token
        return lambda text: len(text) // 4
    tokenizer = Tokenizer.from_file(str(file))
    return lambda text: len(tokenizer.encode(text).ids)
