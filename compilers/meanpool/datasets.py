"""Training texts from JSONL and plain-text files, or generated documents of nano's world.

A line of a JSONL file has a ``text`` (or ``context``), and may have a ``summary`` and ``questions``:

    {"text": "...", "summary": "...", "questions": [{"q": "...", "answers": ["...", ...]}]}

The records of ``memkit eval`` have this form. A plain-text file is split at blank lines into texts of at
least `PARAGRAPH` characters.
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from memkit.compilers.meanpool.synthetic import SyntheticDataset
from memkit.compilers.meanpool.texts import Draw, Question, Split, Text
from memkit.document import Document
from memkit.errors import ConfigError, DocumentError

PARAGRAPH = 2000  # minimal characters of a text from a plain-text file
HELD_OUT_SHARE = 50  # one text in fifty is held out


def open_source(names: Sequence[str], split: Split, seed: int, facts: tuple[int, int] = (1, 16)) -> Draw:
    """A function that draws texts of one ``split`` from files, or generated ones if ``names`` is
    ``generated``.

    ``facts`` are the numbers of facts in generated texts at the start and at the end of training. Raises
    `ConfigError` for a file that is absent or empty, `DocumentError` for a malformed one.
    """
    if list(names) == ["generated"]:
        return SyntheticDataset(split, seed, facts)
    if "generated" in names or not names:
        raise ConfigError("--data takes files, or generated alone")
    return _Files(names, split)


class _Files:
    """Draws uniformly from the texts of files; for each task, from those that suit it."""

    def __init__(self, names: Sequence[str], split: Split) -> None:
        texts = [text for name in names for text in read_texts(Path(name))]
        self.texts = [t for t in texts if _held_out(t.text) == (split == "held_out")]
        if not self.texts:  # few texts: better the training texts than no early stopping
            self.texts = texts
        self._by_task = dict[str, list[Text]]()

    def __call__(self, rng: random.Random, task: str, reached: float) -> Text:
        if task not in self._by_task:
            self._by_task[task] = [text for text in self.texts if text.has(task)]
        suitable = self._by_task[task]
        if not suitable:
            needs = {"qa": "questions", "summarization": "a summary"}[task]
            raise ConfigError(
                f"no text of the data has {needs}, which {task} needs; add some, or drop it from the mixture"
            )
        return rng.choice(suitable)


def _held_out(text: str) -> bool:
    return zlib.crc32(text.encode()) % HELD_OUT_SHARE == 0


def read_texts(path: Path) -> list[Text]:
    """The texts of one file, JSONL if its name ends with ``.jsonl``, else plain text. Raises like
    `open_source`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the data {path}: {error.strerror}") from error
    texts = list(_lines(path, data) if path.suffix == ".jsonl" else _plain(path, data))
    if not texts:
        raise ConfigError(f"{path} holds no text to train on")
    return texts


def _plain(path: Path, data: bytes) -> Iterator[Text]:
    try:
        whole = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentError(f"{path} is not UTF-8 (byte {error.start}); convert it with iconv") from error
    text = ""
    for paragraph in whole.split("\n\n"):
        text = f"{text}\n\n{paragraph}" if text else paragraph
        if len(text) >= PARAGRAPH:
            yield Text(Document(text).text)
            text = ""
    if text.strip():
        yield Text(Document(text).text)


def _lines(path: Path, data: bytes) -> Iterator[Text]:
    for number, line in enumerate(data.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield _text(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DocumentError(
                f"{path}, line {number}: not a text to train on ({error!r}); give a JSON object with a text"
            ) from error


def _text(row: dict[str, object]) -> Text:
    text, questions = row.get("text", row.get("context")), row.get("questions", ())
    if not isinstance(text, str):
        raise TypeError("no text")
    if not isinstance(questions, list | tuple):
        raise TypeError("questions is no list")
    parsed = [Question(str(q["q"]), tuple(str(a) for a in q["answers"])) for q in questions]
    return Text(Document(text).text, str(row.get("summary", "")), tuple(q for q in parsed if q.answers))
