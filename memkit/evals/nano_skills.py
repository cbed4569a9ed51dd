"""Measure nano's skills on unseen documents: ``python -m memkit.evals.nano_skills``.

All names and values come from the evaluation split of the vocabulary, which is not used in training.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from memkit import prompts, text_metrics
from memkit.engine.transformers import kv_cache
from memkit.models.chat import text_ids
from memkit.models.loading import LoadedModel, load
from memkit.models.nano import world
from memkit.models.nano.documents import Document, Generator, possessive
from memkit.models.nano.general import GENERAL


@dataclass
class Tally:
    """The number of correct answers among ``total``."""

    right: int = 0
    total: int = 0
    wrong: list[str] = field(default_factory=list)  # the first few, as examples

    def add(self, correct: bool, example: str = "") -> None:
        self.total += 1
        self.right += correct
        if not correct and len(self.wrong) < 5:
            self.wrong.append(example)

    @property
    def rate(self) -> float:
        return self.right / max(self.total, 1)

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the rate."""
        return text_metrics.wilson(self.right, self.total)


class Evaluation:
    """Measures each skill on ``documents`` documents; results are in ``tallies``."""

    def __init__(self, base: LoadedModel, documents: int, seed: int) -> None:
        self.base, self.documents, self.seed = base, documents, seed
        self.header = kv_cache.prefill(base.model, list(base.chat.header))
        self.tallies: dict[str, Tally] = {}

    # -- answers --------------------------------------------------------------------------------
    def read(self, text: str) -> kv_cache.KVCache:
        return kv_cache.prefill(self.base.model, self.encode(text), self.header)

    def encode(self, text: str) -> list[int]:
        return text_ids(self.base.tokenizer, text)

    def ask(
        self, prefix: kv_cache.KVCache, questions: Sequence[str], *, context: bool = True, **options: object
    ) -> list[str]:
        queries = [self.base.chat.query(self.base.tokenizer, q, context) for q in questions]
        answers = list[str]()
        for group in kv_cache.chunked(queries, 32):
            settings = {"max_tokens": 24, "end": self.base.chat.end, **options}
            for row in kv_cache.decode(self.base.model, prefix, group, **settings):  # type: ignore[arg-type]
                answers.append(str(self.base.tokenizer.decode(row.ids)).strip())
        return answers

    def score(self, skill: str, asked: Sequence[tuple[str, str]], answers: Sequence[str]) -> None:
        tally = self.tallies.setdefault(skill, Tally())
        for (question, expected), answer in zip(asked, answers, strict=True):
            tally.add(answer == expected, f"{question} -> {answer} (expected {expected})")

    def pairs(
        self, skill: str, prefix: kv_cache.KVCache, asked: Iterable[tuple[str, str]], context: bool = True
    ) -> None:
        asked = list(asked)
        if asked:
            self.score(skill, asked, self.ask(prefix, [q for q, _ in asked], context=context))

    # -- skills ---------------------------------------------------------------------------------
    def _generated(self, salt: int, **shape: tuple[int, int]) -> Iterator[tuple[Generator, Document]]:
        generator = Generator(self.seed * 1000 + salt, "eval")
        for _ in range(self.documents):
            sizes = {k: generator.rng.randint(*v) for k, v in shape.items()}
            yield generator, generator.document(**sizes)

    def reading(self) -> None:
        """8 facts: exact answers with and without the text, missing answers, two hops, reverse."""
        rng = random.Random(self.seed)
        for generator, document in self._generated(1, facts=(8, 8), people=(2, 4), fillers=(4, 10)):
            prefix = self.read(document.text)
            facts = [(q.text, q.answer) for q in generator.questions(document)]
            self.pairs("facts, full context", prefix, facts)
            self.pairs("facts, no context", self.header, facts, context=False)
            missing = [generator.missing(document) for _ in range(3)]
            self.pairs("missing, says so", prefix, [(q.text, q.answer) for q in missing])
            other = (("two hops", generator.two_hop(document)), ("reverse", generator.reverse(document)))
            for skill, question in other:
                if question:
                    self.pairs(skill, prefix, [(question.text, question.answer)])
            self.pairs("general, with context", prefix, rng.sample(GENERAL, 6))
        self.pairs("general, no context", self.header, GENERAL, context=False)

    def updates(self) -> None:
        """A fact that was corrected later in the text: the new value counts."""
        for generator, document in self._generated(
            2, facts=(6, 8), people=(2, 3), fillers=(2, 6), updates=(1, 1)
        ):
            changed = [f for f in document.facts if any(_same(f, o) for o in document.superseded)]
            questions = [generator.about(f) for f in changed]
            self.pairs("corrected facts", self.read(document.text), [(q.text, q.answer) for q in questions])

    def long(self) -> None:
        """8 facts among 1,000 to 2,000 tokens of filler."""
        for generator, document in self._generated(3, facts=(8, 8), people=(2, 4), fillers=(110, 190)):
            if len(self.encode(document.text)) > 2000:
                continue
            questions = [(q.text, q.answer) for q in generator.questions(document)]
            self.pairs("facts, 1,000-2,000 tokens", self.read(document.text), questions)

    def turns(self) -> None:
        """A second question in the same conversation, with "she" or "his" for the person."""
        for generator, document in self._generated(4, facts=(8, 8), people=(2, 3), fillers=(2, 6)):
            by_person = [f for f in document.facts if f.person is document.facts[0].person][:2]
            if len(by_person) < 2:
                continue
            first, second = generator.about(by_person[0]), generator.about(by_person[1], pronoun=True)
            chat, tokenizer = self.base.chat, self.base.tokenizer
            query = [
                *chat.query(tokenizer, first.text, True),
                *self.encode(first.answer),
                chat.end,
                *chat.turn,
                *chat.query(tokenizer, second.text, False),
            ]
            (row,) = kv_cache.decode(
                self.base.model, self.read(document.text), [query], max_tokens=24, end=chat.end
            )
            answer = str(tokenizer.decode(row.ids)).strip()
            self.score("second turn", [(second.text, second.answer)], [answer])

    def repeating(self) -> None:
        """Repeat the context, 40 to 256 tokens: each token given the right ones before it, and freely."""
        for _, document in self._generated(5, facts=(3, 12), people=(1, 4), fillers=(0, 14)):
            ids = self.encode(document.text)[:256]
            prefix = kv_cache.prefill(self.base.model, ids, self.header)
            query = self.base.chat.query(self.base.tokenizer, prompts.REPEAT, True)
            batch = kv_cache.AnswerBatch.of([(query, ids)], prefix, self.base.model.device)
            with torch.no_grad():
                chosen = kv_cache.answer_logits(self.base.model, prefix, batch).argmax(-1)
            tally = self.tallies.setdefault("repeat, tokens given the prefix", Tally())
            for right in (chosen == batch.target).tolist():
                tally.add(right)
            (row,) = kv_cache.decode(
                self.base.model, prefix, [query], max_tokens=len(ids), end=self.base.chat.end
            )
            free = self.tallies.setdefault("repeat, tokens freely", Tally())
            for i, token in enumerate(ids):
                free.add(i < len(row.ids) and row.ids[i] == token)

    def writing(self) -> None:
        """Sampled questions that it writes about a text: are they answerable, and does it answer them?"""
        sampler = torch.Generator().manual_seed(self.seed)
        written = self.tallies.setdefault("writes answerable questions", Tally())
        cautious = self.tallies.setdefault("writes answerable questions, temperature 0.3", Tally())
        about = self.tallies.setdefault("writes questions about a sentence, or none about filler", Tally())
        for _, document in self._generated(6, facts=(8, 8), people=(2, 4), fillers=(4, 10)):
            prefix = self.read(document.text)
            questions = self.ask(prefix, [prompts.WRITE_QUESTION] * 8, temperature=1.0, generator=sampler)
            answers = _answers(document)
            for question in questions:
                written.add(question in answers, question)
            requests = [prompts.WRITE_QUESTION] * 8
            for question in self.ask(prefix, requests, temperature=0.3, generator=sampler):
                cautious.add(question in answers, question)
            for sentence, fact in document.sentences:
                request = prompts.WRITE_QUESTION_ABOUT.format(passage=sentence)
                (question,) = self.ask(prefix, [request], temperature=1.0, generator=sampler)
                right = question == world.IDK if fact is None else answers.get(question) == fact.value
                about.add(right, f"{sentence} -> {question}")
            answered = [(q, answers[q]) for q in questions if q in answers]
            self.pairs("answers its own questions", prefix, answered)

    def run(self, progress: Callable[[str], None]) -> dict[str, object]:
        for part in (self.reading, self.updates, self.long, self.turns, self.repeating, self.writing):
            progress(part.__name__)
            part()
        rows = [
            {"skill": k, "rate": round(t.rate, 4), "n": t.total, "ci95": [round(x, 4) for x in t.interval]}
            for k, t in self.tallies.items()
        ]
        return {"model": self.base.name, "documents": self.documents, "seed": self.seed, "rows": rows}


def _same(a: object, b: object) -> bool:
    return all(getattr(a, n) == getattr(b, n) for n in ("person", "attribute"))


def _answers(document: Document) -> dict[str, str]:
    """Every direct question that a document answers, with its answer."""
    answers = dict[str, str]()
    for fact in document.facts:
        name = fact.person.name
        for template in fact.attribute.asks:
            answers[template.format(s=name, p=possessive(name))] = fact.value
    return answers


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--documents", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the report to this file")
    parser.add_argument("--wrong", action="store_true", help="print some wrong answers")
    options = parser.parse_args(argv)
    evaluation = Evaluation(load(options.model), options.documents, options.seed)
    report = evaluation.run(lambda part: print(f"  {part} ...", file=sys.stderr, flush=True))
    text = json.dumps(report, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    if options.wrong:
        for skill, tally in evaluation.tallies.items():
            for line in tally.wrong:
                print(f"{skill}: {line}", file=sys.stderr)


if __name__ == "__main__":
    main()
