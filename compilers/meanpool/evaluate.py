"""What a compressor can do: rebuild a text, answer questions about it, and how it goes about that."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from memkit import text_metrics
from memkit.compilers.meanpool.model import Compressor
from memkit.compilers.meanpool.prompts import instructions
from memkit.compilers.meanpool.rewards import extracted
from memkit.compilers.meanpool.texts import Draw, Question, Text
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.prefixes import Prefix
from memkit.models.chat import text_ids

ANSWER_TOKENS = 48
ROWS = 32  # decoded together
QUOTE = 5  # words in a row that make a quotation of the source
LENGTHS = (64, 128, 256, 512)  # tokens of texts that are rebuilt


@dataclass(frozen=True)
class EvaluationResult:
    """One question: what was answered, and whether that is right."""

    text: str
    right: float
    tokens: int
    quotes: float  # 1.0 when a span of the source is quoted


class Evaluator:
    """Evaluates a compressor whose weights are still float32, or `Compressor.frozen`."""

    def __init__(self, compressor: Compressor) -> None:
        self.compressor, self.base = compressor, compressor.base
        header = list(self.base.chat.header)
        self.header = kv_cache.prefill(self.base.model, header) if header else None
        with torch.no_grad():
            self.front = compressor.front(header)

    @torch.no_grad()
    def memory(self, ids: Sequence[int]) -> Prefix:
        """The reader behind a text's memory."""
        dtype = self.base.model.dtype
        wrapped = self.compressor.wrapped(self.compressor.embed(ids).to(dtype))[None]
        return Prefix(
            self.compressor.answering, kv_cache.KVCache.of(self.compressor.read(wrapped, self.front)), True
        )

    def full(self, ids: Sequence[int]) -> Prefix:
        """The frozen base behind the whole text."""
        return Prefix(self.base.model, kv_cache.prefill(self.base.model, ids, self.header), True)

    def encode(self, text: str) -> list[int]:
        return text_ids(self.base.tokenizer, text)

    def decode(self, reader: Prefix, questions: Sequence[str], tokens: int) -> list[tuple[str, int]]:
        """Greedy answers and their lengths in tokens."""
        queries, made = [reader.query(self.base, q) for q in questions], list[tuple[str, int]]()
        for group in kv_cache.chunked(queries, ROWS):
            rows = kv_cache.decode(
                reader.model, reader.prefix, group, max_tokens=tokens, end=self.base.chat.end
            )
            for row in rows:
                text = str(self.base.tokenizer.decode(row.ids, skip_special_tokens=True)).strip()
                made.append((text, len(row.ids)))
        return made

    def answers(self, reader: Prefix, source: str, questions: Sequence[Question]) -> list[EvaluationResult]:
        said = self.decode(reader, [q.text for q in questions], ANSWER_TOKENS)
        return [
            EvaluationResult(
                text,
                text_metrics.contains(extracted(text), q.answers),
                tokens,
                quotes(text, source, q.answers),
            )
            for q, (text, tokens) in zip(questions, said, strict=True)
        ]

    def rebuilt(self, text: str) -> float:
        """ROUGE-1 F1 of a text and what the memory gives back of it: unigram F1 (Lin, 2004)."""
        ids, instruction = self.encode(text), instructions(self.base.prompts)["reconstruction"][0]
        ((said, _),) = self.decode(self.memory(ids), [instruction], len(ids) + 8)
        return text_metrics.f1(said, [text])


def quotes(answer: str, source: str, golds: Sequence[str]) -> float:
    """1.0 when `QUOTE` words of the source stand in the answer in a row, beyond what the gold answer has."""
    words, held = text_metrics.normalize_answer(answer).split(), f" {text_metrics.normalize_answer(source)} "
    known = [f" {text_metrics.normalize_answer(gold)} " for gold in golds]
    spans = (f" {' '.join(words[i : i + QUOTE])} " for i in range(len(words) - QUOTE + 1))
    return float(any(span in held and not any(span in gold for gold in known) for span in spans))


def reconstruction(evaluator: Evaluator, draw: Draw, count: int, seed: int) -> dict[str, Any]:
    """Mean ROUGE-1 F1 over held-out texts, at most as long as the last of `LENGTHS`, and by length."""
    rng, found = random.Random(seed), list[tuple[int, float]]()
    for _ in range(count):
        ids = evaluator.encode(draw(rng, "reconstruction", 1.0).text)[: LENGTHS[-1]]
        text = str(evaluator.base.tokenizer.decode(ids)).strip()
        found.append((len(ids), evaluator.rebuilt(text)))
    by_length = dict[str, float | None]()
    for least, most in zip((0, *LENGTHS), LENGTHS, strict=False):
        by_length[str(most)] = text_metrics.mean([score for n, score in found if least < n <= most])
    return {"rouge1": text_metrics.mean([score for _, score in found]), "by_length": by_length, "n": count}


def question_answering(evaluator: Evaluator, texts: Sequence[Text], bounds: bool = True) -> dict[str, Any]:
    """Answers from memory, and with ``bounds`` from the whole text and from nothing, by the frozen base."""
    rows: dict[str, list[EvaluationResult]] = {"memory": [], "full": [], "none": []}
    for text in texts:
        ids = evaluator.encode(text.text)
        readers = {"memory": evaluator.memory(ids)}
        if bounds:
            readers |= {
                "full": evaluator.full(ids),
                "none": Prefix(evaluator.base.model, evaluator.header, False),
            }
        for name, reader in readers.items():
            rows[name] += evaluator.answers(reader, text.text, text.questions)
    score, full, none = (
        text_metrics.mean([a.right for a in rows[name]]) for name in ("memory", "full", "none")
    )
    given = rows["memory"]
    return {
        "n": len(given),
        "contains": score,
        "contains_ci95": text_metrics.wilson(sum(a.right for a in given), len(given)),
        "full": full,
        "none": none,
        "retention": text_metrics.retention(score, none, full),
        "expansion_rate": text_metrics.mean([a.quotes for a in given]),
        "answer_tokens": text_metrics.mean([float(a.tokens) for a in given]),
    }
