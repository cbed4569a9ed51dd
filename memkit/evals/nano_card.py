"""Write nano's model card from the record of its training and its evaluation.

``python -m memkit.evals.nano_card``
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from memkit.evals.reports.markdown import skill_table
from memkit.models.loading import NANO_FOLDER

SHOWN = ("layers", "hidden", "heads", "feed_forward", "muon_lr", "lr", "logit_limit")
CARD = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---

# nano

A chat model of {parameters:.2f} million parameters (Llama architecture, {layers} layers, hidden
size {hidden}, {heads} heads, feed-forward {feed_forward}, vocabulary {vocabulary:,}, tied
embeddings) that ships inside memkit. It reads short texts about people and answers questions about
them, in English. It exists so that memory can be measured without a network or a GPU: every name
and value in a text is a random word, so that only reading can answer.

## What it can do

{skills}

Measured by `python -m memkit.evals.nano_skills --documents {documents} --seed {seed}` on
documents whose names and values come from a half of the vocabulary that training never drew.
Fractions come with Wilson's 95 % interval.

- answer questions about the attributes of people in a text (`memkit/models/nano/world.py` lists all
  templates);
- say "{idk}" when the text does not tell;
- answer {general} general questions with and without a text; half of them regularize compilations,
  half measure drift;
- repeat a text of up to 256 tokens ("{repeat}");
- write questions about a text ("{write}") or about one of its sentences ("{about}"), which self-study
  needs.

## What it cannot do

Anything else. It knows no facts but the general questions above, follows no other instruction, and
answers only questions worded like its templates. Words of letters that it has seldom seen together it
may misspell when it copies them. It was trained on texts of up to about 2,000
tokens; its window is {window:,}. Do not use it as an assistant.

## How it was trained

From random weights on {tokens:,} tokens of generated text, in {steps:,} steps, seed
{seed_training}: `python -m memkit.models.nano.train --out DIR --workers 2`. Each sample is one
document with many questions that cannot see each other, or a list of random words to be copied. A
curriculum goes from documents of 1 to 3 facts to 16 facts and long fillers. Matrices are trained by
Muon (learning rate {muon_lr:g}) with QK-clip (limit {logit_limit:g}), the rest by AdamW ({lr:g}),
constant and then linear to zero over the last third. The weights are bfloat16.

The recipe was changed while these weights were trained: the word lists and the smaller batches were
added after 11.7 million tokens, QK-clip after 14.1 million (limits 30, then 16, then 12), and the
stage that consists mostly of lists was inserted at 15.5 million. Before those changes the model
chose the right fact but garbled the second syllable of its value. At 24.5 million (the learning rate
had reached zero and was raised again) words spelled letter by letter, more written questions and
more reverse ones were added, at 34 million questions about one sentence, at 38.5 million longer texts,
dated logs, texts in lines and requests for questions that link two facts or that the text does not answer,
and at 47 million questions that the text answers for somebody else only. A run with the present recipe from
the first step on has not been measured.
"""


def render(folder: Path) -> str:
    """The card of the model in ``folder``, which holds ``training.json`` and ``eval.json``."""
    from safetensors import safe_open

    from memkit import prompts
    from memkit.models.nano import general, world

    training = json.loads((folder / "training.json").read_text())
    report = json.loads((folder / "eval.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    with safe_open(folder / "model.safetensors", "pt") as weights:
        names = list(weights.keys())
        parameters = sum(math.prod(weights.get_slice(name).get_shape()) for name in names)
    return CARD.format(
        parameters=parameters / 1e6,
        vocabulary=config["vocab_size"],
        window=config["max_position_embeddings"],
        skills=skill_table(report),
        documents=report["documents"],
        seed=report["seed"],
        seed_training=training["seed"],
        idk=world.IDK,
        repeat=prompts.REPEAT,
        write=prompts.WRITE_QUESTION,
        about=prompts.WRITE_QUESTION_ABOUT.format(passage="..."),
        general=len(general.GENERAL),
        tokens=training["trained"]["tokens"],
        steps=training["trained"]["step"],
        **{
            k: training[k]
            for k in ("layers", "hidden", "heads", "feed_forward", "muon_lr", "lr", "logit_limit")
        },
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=NANO_FOLDER)
    folder = parser.parse_args(argv).folder
    (folder / "README.md").write_text(render(folder))


if __name__ == "__main__":
    main()
