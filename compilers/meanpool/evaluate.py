"""Evaluate a compressor: reconstruction, question answering, and how much it quotes the source."""

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
ROWS = 32  # in one batch of decoding
QUOTE = 5  # consecutive words of the source that count as a quotation
LENGTHS = (64, 128, 256, 512)  # tokens of the texts to reconstruct: upper bounds of the groups


@dataclass(frozen=True)
class EvaluationResult:
    """The answer to one question."""

    text: str
    right: float  # 1.0 when it contains a gold answer
    tokens: int
    quotes: float  # 1.0 when it quotes the source


class Evaluator:
    """Evaluates a compressor, during training or after `Compressor.frozen`."""

    def __init__(self, compressor: Compressor) -> None:
        self.compressor, self.base = compressor, compressor.base
        header = list(self.base.chat.header)
        self.header = kv_cache.prefill(self.base.model, header) if header else None
        with torch.no_grad():
            self.front = compressor.front(header)

    @torch.no_grad()
    def memory(self, ids: Sequence[int]) -> Prefix:
        """The prefix of a text's memory."""
        dtype = self.base.model.dtype
        wrapped = self.compressor.wrapped(self.compressor.embed(ids).to(dtype))[None]
        return Prefix(
            self.compressor.answering, kv_cache.KVCache.of(self.compressor.read(wrapped, self.front)), True
        )

    def full(self, ids: Sequence[int]) -> Prefix:
        """The prefix of the full text, with the frozen base model."""
        return Prefix(self.base.model, kv_cache.prefill(self.base.model, ids, self.header), True)

    def encode(self, text: str) -> list[int]:
        return text_ids(self.base.tokenizer, text)

    def decode(self, reader: Prefix, questions: Sequence[str], tokens: int) -> list[tuple[str, int]]:
        """Greedy answers and their lengths in tokens."""
        queries, answers = [reader.query(self.base, q) for q in questions], list[tuple[str, int]]()
        for group in kv_cache.chunked(queries, ROWS):
            rows = kv_cache.decode(
                reader.model, reader.prefix, group, max_tokens=tokens, end=self.base.chat.end
            )
            for row in rows:
                text = str(self.base.tokenizer.decode(row.ids, skip_special_tokens=True)).strip()
                answers.append((text, len(row.ids)))
        return answers

    def answers(self, reader: Prefix, source: str, questions: Sequence[Question]) -> list[EvaluationResult]:
        decoded = self.decode(reader, [q.text for q in questions], ANSWER_TOKENS)
        return [
            EvaluationResult(
                text,
                text_metrics.contains(extracted(text), q.answers),
                tokens,
                quotes(text, source, q.answers),
            )
            for q, (text, tokens) in zip(questions, decoded, strict=True)
        ]

    def reconstruction_score(self, text: str) -> float:
        """ROUGE-1 F1 (unigram F1; Lin, 2004) of a text and its reconstruction from memory."""
        ids, instruction = self.encode(text), instructions(self.base.prompts)["reconstruction"][0]
        ((rebuilt, _),) = self.decode(self.memory(ids), [instruction], len(ids) + 8)
        return text_metrics.f1(rebuilt, [text])


def quotes(answer: str, source: str, golds: Sequence[str]) -> float:
    """1.0 when the answer contains `QUOTE` consecutive words of the source that are not in a gold answer."""
    words = text_metrics.normalize_answer(answer).split()
    padded_source = f" {text_metrics.normalize_answer(source)} "
    padded_golds = [f" {text_metrics.normalize_answer(gold)} " for gold in golds]
    spans = (f" {' '.join(words[i : i + QUOTE])} " for i in range(len(words) - QUOTE + 1))
    return float(any(s in padded_source and not any(s in gold for gold in padded_golds) for s in spans))


def reconstruction(evaluator: Evaluator, draw: Draw, count: int, seed: int) -> dict[str, Any]:
    """Mean ROUGE-1 F1 of reconstructions of ``count`` held-out texts, overall and by `LENGTHS`."""
    rng, scores = random.Random(seed), list[tuple[int, float]]()
    for _ in range(count):
        ids = evaluator.encode(draw(rng, "reconstruction", 1.0).text)[: LENGTHS[-1]]
        text = str(evaluator.base.tokenizer.decode(ids)).strip()
        scores.append((len(ids), evaluator.reconstruction_score(text)))
    by_length = dict[str, float | None]()
    for low, high in zip((0, *LENGTHS), LENGTHS, strict=False):
        by_length[str(high)] = text_metrics.mean([score for n, score in scores if low < n <= high])
    return {"rouge1": text_metrics.mean([score for _, score in scores]), "by_length": by_length, "n": count}


def question_answering(evaluator: Evaluator, texts: Sequence[Text], bounds: bool = True) -> dict[str, Any]:
    """Scores of answers from memory; with ``bounds`` also from the full text and without it, by the base
    model."""
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
    results = rows["memory"]
    return {
        "n": len(results),
        "contains": score,
        "contains_ci95": text_metrics.wilson(sum(a.right for a in results), len(results)),
        "full": full,
        "none": none,
        "retention": text_metrics.retention(score, none, full),
        "expansion_rate": text_metrics.mean([a.quotes for a in results]),
        "answer_tokens": text_metrics.mean([float(a.tokens) for a in results]),
    }
