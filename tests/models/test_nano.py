"""Nano's data and training: seeded, split, and each question as if it were alone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memkit.models.loading import LoadedModel
from memkit.models.nano import general, words
from memkit.models.nano.documents import Generator
from memkit.models.nano.samples import CURRICULUM, Sampler, collate
from memkit.models.nano.tokenizer import train_tokenizer
from memkit.models.nano.train import NanoTrainConfig, Trainer, main


def test_same_seed_same_documents_in_every_process() -> None:
    script = (
        "import hashlib\n"
        "from memkit.models.nano.documents import Generator\n"
        "from memkit.models.nano.tokenizer import train_tokenizer\n"
        "g = Generator(3)\n"
        "texts = [g.document(6, 3, 4, 1).text for _ in range(20)]\n"
        "vocabulary = train_tokenizer(documents=30).backend_tokenizer.to_str()\n"
        "print(hashlib.sha256(repr(texts).encode() + vocabulary.encode()).hexdigest())\n"
    )
    prints = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in (1, 2)
    }
    assert len(prints) == 1


@pytest.mark.parametrize("kind", ["name", "place", "thing", "code", "number", "date"])
def test_evaluation_values_never_occur_in_training(kind: words.Kind) -> None:
    rng = random.Random(0)
    train = {words.value(rng, kind, "train").lower() for _ in range(2000)}
    held = {words.value(rng, kind, "eval").lower() for _ in range(500)}
    assert not train & held
    assert len(held) > 20


def test_every_question_is_answered_by_the_text() -> None:
    generator = Generator(0, "eval")
    for _ in range(50):
        document = generator.document(8, 3, 5, updates=1)
        for question in generator.questions(document):
            assert question.answer in document.text
        for made in (generator.two_hop(document), generator.reverse(document)):
            assert made is None or made.answer in document.text


def test_missing_questions_are_not_answered_by_the_text() -> None:
    generator = Generator(1)
    for _ in range(50):
        document = generator.document(8, 3)
        answered = {
            template.format(s=f.person.name, p=f"{f.person.name}'s")
            for f in document.facts
            for template in f.attribute.asks
        }
        assert generator.missing(document).text not in answered


def test_regularizing_and_held_out_questions_are_disjoint() -> None:
    assert not {q for q, _ in general.REGULARIZERS} & {q for q, _ in general.HELD_OUT}
    assert len(general.GENERAL) == len({q for q, _ in general.GENERAL}) >= 100


def test_a_branch_of_the_tree_is_an_independent_prompt(tiny: LoadedModel) -> None:
    """Every answer's logits in the packed tree equal those of its own plain prompt."""
    tokenizer = train_tokenizer(documents=50)
    sampler = Sampler(tokenizer, seed=0)
    sample = sampler.sample(CURRICULUM[1])
    batch = collate([sample])
    with torch.no_grad():
        packed = tiny.model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.position
        ).logits[0]
        root = [i for i, b in zip(sample.ids, sample.branch, strict=True) if b == 0]
        for number in range(1, min(max(sample.branch), 4) + 1):
            where = [i for i, b in enumerate(sample.branch) if b == number]
            alone = tiny.model(input_ids=torch.tensor([root + [sample.ids[i] for i in where]])).logits[0]
            torch.testing.assert_close(packed[where], alone[len(root) :], rtol=1e-3, atol=1e-3)


def test_every_answer_token_is_weighted_and_no_question_token() -> None:
    sampler = Sampler(train_tokenizer(documents=50), seed=0)
    sample = sampler.sample(CURRICULUM[0])
    end = sampler.chat.end
    first_of_branch = {b: i for i, b in reversed(list(enumerate(sample.branch)))}
    assert all(sample.weights[i] == 0 for b, i in first_of_branch.items() if b)
    answers = [i for i, w in enumerate(sample.weights) if w >= 0.3]
    assert sample.ids[answers[-1]] == end


def test_training_resumes_where_it_was(tmp_path: Path) -> None:
    config = NanoTrainConfig(
        hidden=16,
        layers=1,
        heads=2,
        feed_forward=16,
        tokens=60_000,
        batch_tokens=2048,
        checkpoint_steps=8,
        bf16=False,
    )
    whole = Trainer(config, tmp_path / "whole")
    whole.run()
    broken = Trainer(config, tmp_path / "broken")
    save = broken.save

    def stop_after_saving() -> None:
        save()
        raise KeyboardInterrupt

    broken.save = stop_after_saving  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    resumed = Trainer(config, tmp_path / "broken")
    assert resumed.progress.step == 8
    resumed.run()
    assert resumed.progress.step == whole.progress.step
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert (tmp_path / "broken" / "model" / "model.safetensors").exists()


def test_train_command_refuses_bad_values(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        main(["--out", str(tmp_path), "--hidden", "10", "--heads", "3"])


def test_training_goes_on_from_an_exported_model(tmp_path: Path) -> None:
    config = NanoTrainConfig(
        hidden=16, layers=1, heads=2, feed_forward=16, tokens=4_000, batch_tokens=512, bf16=False
    )
    first = Trainer(config, tmp_path / "first")
    first.run()
    more = replace(config, tokens=8_000, init=str(tmp_path / "first" / "model"))
    second = Trainer(more, tmp_path / "second")
    assert second.progress == first.progress
    assert second.tokenizer.get_vocab() == first.tokenizer.get_vocab()
    weight = second.model.get_input_embeddings().weight
    torch.testing.assert_close(weight, first.model.get_input_embeddings().weight, rtol=1e-2, atol=1e-3)
    second.run()
    assert second.progress.tokens >= 8_000
