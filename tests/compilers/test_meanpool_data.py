"""Training data of the mean-pool compressor: files, generated texts, and the tasks made of them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from memkit.compilers.meanpool import datasets
from memkit.compilers.meanpool.config import StageConfig, stage_config
from memkit.compilers.meanpool.datasets import open_source, read_texts
from memkit.compilers.meanpool.synthetic import SyntheticDataset
from memkit.compilers.meanpool.tasks import Sampler
from memkit.compilers.meanpool.texts import Question, Text
from memkit.errors import ConfigError, DocumentError
from memkit.models.loading import LoadedModel
from memkit.models.nano.words import split_of
from memkit.testing import TEXT

LONG = Text(TEXT * 3, "Mira, Jalo", (Question("Where does Mira live?", ("Keldor",)),))


def sampler(base: LoadedModel, **options: Any) -> Sampler:
    config = stage_config("cpt2", "paper", {"sequence": 256, **options})
    assert isinstance(config, StageConfig)
    return Sampler(base, config, lambda rng, task, reached: LONG)


def words(base: LoadedModel, ids: tuple[int, ...]) -> str:
    return str(base.tokenizer.decode(list(ids)))


# --- tasks ------------------------------------------------------------------------------------
def test_reconstruction_and_summarization_see_the_whole_text(tiny: LoadedModel) -> None:
    made, rng = sampler(tiny), random.Random(0)
    ids = tuple(made.encode(LONG.text))
    whole = made.of("reconstruction", LONG, rng)
    assert whole.context == ids
    assert whole.branches[0].target == (*ids, tiny.chat.end)
    summary = made.of("summarization", LONG, rng)
    assert summary.context == ids
    assert words(tiny, summary.branches[0].target[:-1]).strip() == "Mira, Jalo"


@pytest.mark.parametrize("bridges", [0, 1, 4])
def test_continuation_leaves_bridge_chunks_uncompressed(tiny: LoadedModel, bridges: int) -> None:
    made = sampler(tiny, bridges=(bridges, bridges), bridge_tokens=8)
    ids, half = made.encode(LONG.text), len(made.encode(LONG.text)) // 2
    sample = made.of("continuation", LONG, random.Random(0))
    (branch,) = sample.branches
    assert sample.context == tuple(ids[:half])
    bridge = bridges * 8
    assert branch.prompt[len(branch.prompt) - bridge :] == tuple(ids[half : half + bridge])
    assert branch.target == (*ids[half + bridge :], tiny.chat.end)


def test_qa_asks_the_question_itself_and_the_chat_format_has_turns(tiny: LoadedModel) -> None:
    flat = sampler(tiny).of("qa", LONG, random.Random(0))
    assert flat.header == ()
    assert words(tiny, flat.branches[0].prompt).strip() == "Where does Mira live?"
    chat = sampler(tiny, format="chat").of("qa", LONG, random.Random(0))
    assert chat.header == tiny.chat.header
    assert chat.branches[0].prompt[-len(tiny.chat.tail) :] == tiny.chat.tail
    assert chat.branches[0].target[-1] == tiny.chat.end


def test_mixture_and_standard_share_are_as_configured(tiny: LoadedModel) -> None:
    made, rng = sampler(tiny, standard_share=0.4), random.Random(0)
    drawn = [made.sample(rng, 0.5).branches[0].task for _ in range(1500)]
    shares = {task: drawn.count(task) / len(drawn) for task in set(drawn)}
    expected = {
        "standard": 0.4,
        "continuation": 0.24,
        "qa": 0.165,
        "summarization": 0.105,
        "reconstruction": 0.09,
    }
    assert shares == pytest.approx(expected, abs=0.04)
    assert all(not s.context for s in (made.standard(LONG, rng) for _ in range(3)))
    frozen = Sampler(tiny, made.config, made.draw, standard=False)
    assert {frozen.sample(rng, 0.5).branches[0].task for _ in range(99)} == set(made.config.mixture)


def test_texts_longer_than_the_window_are_refused_at_once(tiny: LoadedModel) -> None:
    with pytest.raises(ConfigError, match="sequence of at most"):
        sampler(tiny, sequence=512)


def test_generated_texts_keep_the_evaluations_words_apart_and_grow() -> None:
    train, held_out = (SyntheticDataset(split, 0, (1, 12)) for split in ("train", "held_out"))
    for made, split in ((train, "train"), (held_out, "eval")):
        for number in range(5):
            text = made(random.Random(number), "qa", 1.0)
            assert {split_of(name) for name in text.summary.split(", ")} == {split}
    early, late = ([len(train(random.Random(i), "qa", r).text) for i in range(30)] for r in (0.0, 1.0))
    assert sum(late) > 3 * sum(early)


def test_some_generated_texts_to_rebuild_are_mere_words() -> None:
    train, held_out = (SyntheticDataset(split, 0, (4, 4)) for split in ("train", "held_out"))
    drawn = [train(random.Random(i), "reconstruction", 1.0) for i in range(40)]
    assert 5 < sum(not text.questions for text in drawn) < 35
    assert all(held_out(random.Random(i), "reconstruction", 1.0).questions for i in range(20))
    assert all(train(random.Random(i), "qa", 1.0).questions for i in range(20))


# --- data -------------------------------------------------------------------------------------
def test_files_of_both_kinds(tmp_path: Path) -> None:
    lines = tmp_path / "data.jsonl"
    row = {
        "context": "Mira lives in Keldor.",
        "questions": [{"q": "Where?", "answers": ["Keldor"]}, {"q": "?", "answers": []}],
    }
    lines.write_text(json.dumps(row) + "\n\n" + json.dumps({"text": "Plain.", "summary": "P."}) + "\n")
    first, second = read_texts(lines)
    assert first.questions == (Question("Where?", ("Keldor",)),)
    assert (second.text, second.summary) == ("Plain.", "P.")
    plain = tmp_path / "book.txt"
    plain.write_text("\n\n".join("word " * 150 for _ in range(9)))
    assert [len(t.text) >= datasets.PARAGRAPH for t in read_texts(plain)] == [True, True, True]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "{}",
        '{"text": 3}',
        '{"text": ""}',
        '{"text": "a", "questions": 3}',
        '{"text": "a", "questions": [{}]}',
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "data.jsonl"
    file.write_text('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(DocumentError, match=r"data.jsonl, line 2"):
        read_texts(file)


def test_data_that_cannot_be_used_says_why(tmp_path: Path, tiny: LoadedModel) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_texts(tmp_path / "absent.jsonl")
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n")
    with pytest.raises(ConfigError, match="no text"):
        read_texts(empty)
    with pytest.raises(ConfigError, match="generated alone"):
        open_source(["generated", "x.txt"], "train", 0)
    latin = tmp_path / "latin.txt"
    latin.write_bytes("Zürich".encode("latin-1"))
    with pytest.raises(DocumentError, match="iconv"):
        read_texts(latin)
    plain = tmp_path / "plain.txt"
    plain.write_text("Some words.")
    with pytest.raises(ConfigError, match="questions"):
        open_source([str(plain)], "train", 0)(random.Random(0), "qa", 0.0)
