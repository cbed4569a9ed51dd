"""Training texts: JSONL and plain-text files, or documents of nano's own world.

A line of a JSONL file has a ``text`` (or ``context``), and may have a ``summary`` and ``questions``:

    {"text": "...", "summary": "...", "questions": [{"q": "...", "answers": ["...", ...]}]}

so that the records that ``memkit eval`` takes serve as they are. A plain-text file is cut at its blank lines
into texts of at least `PARAGRAPH` characters.
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

PARAGRAPH = 2000  # characters at which a plain text may be cut
HELD_OUT_SHARE = 50  # one text in fifty is held out


def open_source(names: Sequence[str], split: Split, seed: int, facts: tuple[int, int] = (1, 16)) -> Draw:
    """A function that draws texts from files, or ``generated`` ones of up to ``facts`` facts.

    Raises `ConfigError` for a file that is absent or unusable, `DocumentError` for a malformed line.
    """
    if list(names) == ["generated"]:
        return SyntheticDataset(split, seed, facts)
    if "generated" in names or not names:
        raise ConfigError("--data takes files, or generated alone")
    return _Files(names, split)


class _Files:
    """Texts of files, each with the same chance; for a task, those that have what it needs."""

    def __init__(self, names: Sequence[str], split: Split) -> None:
        everything = [text for name in names for text in read_texts(Path(name))]
        self.texts = [t for t in everything if (_held_out(t.text)) == (split == "held_out")]
        if not self.texts:  # few texts: what is left is better than nothing to stop by
            self.texts = everything
        self._by_task = dict[str, list[Text]]()

    def __call__(self, rng: random.Random, task: str, reached: float) -> Text:
        if task not in self._by_task:
            self._by_task[task] = [text for text in self.texts if text.has(task)]
        fitting = self._by_task[task]
        if not fitting:
            needs = {"qa": "questions", "summarization": "a summary"}[task]
            raise ConfigError(
                f"no text of the data has {needs}, which {task} needs; add some, or drop it from the mixture"
            )
        return rng.choice(fitting)


def _held_out(text: str) -> bool:
    return zlib.crc32(text.encode()) % HELD_OUT_SHARE == 0


def read_texts(path: Path) -> list[Text]:
    """Texts of one file: ``.jsonl``, or else plain text. Raises as `open_source`."""
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
    gathered = ""
    for paragraph in whole.split("\n\n"):
        gathered = f"{gathered}\n\n{paragraph}" if gathered else paragraph
        if len(gathered) >= PARAGRAPH:
            yield Text(Document(gathered).text)
            gathered = ""
    if gathered.strip():
        yield Text(Document(gathered).text)


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
    asked = [Question(str(q["q"]), tuple(str(a) for a in q["answers"])) for q in questions]
    return Text(Document(text).text, str(row.get("summary", "")), tuple(q for q in asked if q.answers))
