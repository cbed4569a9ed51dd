"""Measure a memory: scores of its answers, divergence from the full context, drift, time to first token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from memkit import text_metrics
from memkit.engine.base import Handle, Request
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.engine import TransformersEngine
from memkit.engine.transformers.prefixes import Prefix
from memkit.evals import records
from memkit.models.nano.general import HELD_OUT
from memkit.models.prompt_sets import prompt_set

TTFT_REPEATS = 5
TTFT_SECONDS = 4.0  # after which there are no more repeats, for long contexts
ANSWER_TOKENS = 48
LONG_ANSWER_TOKENS = 192  # of answers that are scored by ROUGE
GENERAL_TOKENS = 16


@dataclass(frozen=True)
class Reference:
    """The answers with the full context to a record's questions and to general ones, with
    log-probabilities."""

    record: records.Record
    reader: Prefix
    answers: list[tuple[str, list[int]]]  # (question, answer ids)
    logprobs: list[torch.Tensor]  # each [answer tokens, vocabulary]
    general: list[tuple[str, list[int]]]
    general_logprobs: list[torch.Tensor]

    @property
    def questions(self) -> list[str]:
        return [q.text for q in self.record.questions]


class MethodEvaluator:
    """Measures methods on one engine; each is a prefix: a model with the KV in front of a question.

    ``drift`` are general questions to measure drift on; () takes nano's. The divergence is measured on all of
    them, the points on those with answers. None does not measure drift.
    """

    def __init__(self, engine: TransformersEngine, drift: Sequence[records.Question] | None = ()) -> None:
        self.engine, self.drift = engine, drift
        self.general, self.drift_questions = list[tuple[str, tuple[str, ...]]](), list[str]()
        self.bare_general: float | None = None
        if drift is None:
            return
        self.general = [(q.text, q.answers) for q in drift if q.answers]
        # A quarter of them for models that were not trained on them, which are larger and take minutes.
        held_out = prompt_set(engine.model).known_answers or HELD_OUT[::4]
        self.general = self.general or [(q, (a,)) for q, a in held_out]
        self.drift_questions = [q.text for q in drift] or [q for q, _ in HELD_OUT[::4]]
        self.bare_general = text_metrics.mean(self._general_scores(self.reader()))

    # -- prefixes -------------------------------------------------------------------------------
    def reader(self, handle: Handle | None = None, context: str | None = None) -> Prefix:
        """The prefix of an artifact, a context or neither."""
        return self.engine.reader(Request("?", handle=handle, context=context))

    def reader_of_kv(self, prefix: kv_cache.KVPrefix) -> Prefix:
        """The frozen model with a KV in place of the context."""
        return Prefix(self.engine.base.model, prefix, True)

    def _decode(self, reader: Prefix, questions: Sequence[str], tokens: int) -> list[list[int]]:
        base, answers = self.engine.base, list[list[int]]()
        queries = [reader.query(base, q) for q in questions]
        for group in kv_cache.chunked(queries, 16):
            rows = kv_cache.decode(reader.model, reader.prefix, group, max_tokens=tokens, end=base.chat.end)
            answers += [row.ids for row in rows]
        return answers

    def _general_scores(self, reader: Prefix) -> list[float]:
        answers = self._decode(reader, [q for q, _ in self.general], GENERAL_TOKENS)
        return [
            text_metrics.contains(self.engine.decode(ids), golds)
            for ids, (_, golds) in zip(answers, self.general, strict=True)
        ]

    @torch.no_grad()
    def _logprobs(self, reader: Prefix, answers: Sequence[tuple[str, list[int]]]) -> list[torch.Tensor]:
        """The log-probabilities ``[answer tokens, vocabulary]`` of each (question, answer ids)."""
        base, out = self.engine.base, list[torch.Tensor]()
        for group in kv_cache.chunked(answers, 16):
            pairs = [(reader.query(base, q), a) for q, a in group]
            batch = kv_cache.AnswerBatch.of(pairs, reader.prefix, base.model.device)
            logits = kv_cache.answer_logits(reader.model, reader.prefix, batch).log_softmax(-1)
            out += logits.split([len(a) for _, a in group])
        return out

    # -- a record -------------------------------------------------------------------------------
    def fits(self, record: records.Record) -> bool:
        """Whether the full context, a question and its answer fit the model's window."""
        longest = max(self.engine.count_tokens(q.text) for q in record.questions)
        chat = self.engine.base.chat
        around = len(chat.header) + len(chat.tail) + longest + _answer_tokens(record) + 8  # separator, end
        return self.engine.count_tokens(record.context) + around <= self.engine.window

    def reference(self, record: records.Record) -> Reference:
        """Answer a record's questions and the general ones with the full context."""
        end, full = self.engine.base.chat.end, self.reader(context=record.context)

        def answered(questions: list[str], tokens: int) -> list[tuple[str, list[int]]]:
            decoded = self._decode(full, questions, tokens)
            return [(q, [*ids, end]) for q, ids in zip(questions, decoded, strict=True)]

        answers = answered([q.text for q in record.questions], _answer_tokens(record))
        general = answered(self.drift_questions, GENERAL_TOKENS)
        logprobs, general_logprobs = (self._logprobs(full, each) for each in (answers, general))
        return Reference(record, full, answers, logprobs, general, general_logprobs)

    def measure(self, reference: Reference, reader: Prefix) -> dict[str, Any]:
        """Fields of a `Cell`: scores, divergences and drift of the answers after a prefix."""
        if reader is reference.reader:  # the full context, which has answered already
            ids, logprobs = [answer[:-1] for _, answer in reference.answers], reference.logprobs
        else:
            ids = self._decode(reader, reference.questions, _answer_tokens(reference.record))
            logprobs = self._logprobs(reader, reference.answers)
        return {
            **self._scores([self.engine.decode(answer) for answer in ids], reference),
            "kl": divergences(reference.logprobs, logprobs),
            "drift_kl": divergences(reference.general_logprobs, self._logprobs(reader, reference.general)),
            "general": tuple(self._general_scores(reader)),
        }

    def _scores(self, texts: Sequence[str], reference: Reference) -> dict[str, Any]:
        """Scores against the gold answers, and agreement with the full context's."""
        full = [self.engine.decode(ids[:-1]) for _, ids in reference.answers]
        agreement = [text_metrics.contains(text, [other]) for text, other in zip(texts, full, strict=True)]
        return {**scores(texts, reference.record.questions), "agreement": tuple(agreement)}

    def measure_each(self, reference: Reference, readers: Sequence[Prefix]) -> dict[str, Any]:
        """Like `measure`, with a separate prefix for every question; drift is measured with the first."""
        texts, kls = list[str](), list[float]()
        for reader, answer, logprobs in zip(readers, reference.answers, reference.logprobs, strict=True):
            (ids,) = self._decode(reader, [answer[0]], _answer_tokens(reference.record))
            texts.append(self.engine.decode(ids))
            kls += divergences([logprobs], self._logprobs(reader, [answer]))
        general = self._logprobs(readers[0], reference.general)
        return {
            **self._scores(texts, reference),
            "kl": tuple(kls),
            "drift_kl": divergences(reference.general_logprobs, general),
            "general": tuple(self._general_scores(readers[0])),
        }

    def timed(self, request: Request) -> dict[str, Any]:
        """The times to first token of repeated requests, and the prompt's length."""
        times, first = list[float](), replace(request, max_tokens=1)
        for repeat in range(TTFT_REPEATS):
            (completion,) = self.engine.generate([first])
            if repeat:  # the first one warms up
                times.append(completion.ttft_ms)
            if times and sum(times) >= TTFT_SECONDS * 1000:
                break
        return {"ttft_ms": tuple(times), "prompt_tokens": float(completion.prompt_tokens)}


def _answer_tokens(record: records.Record) -> int:
    """The maximal length of an answer, in tokens."""
    return LONG_ANSWER_TOKENS if record.metric == "rouge_l" else ANSWER_TOKENS


def scores(texts: Sequence[str], questions: Sequence[records.Question]) -> dict[str, Any]:
    """The scores of answers against the gold answers, for each question."""
    pairs = list(zip(texts, [q.answers for q in questions], strict=True))
    return {
        "answers": tuple(texts),
        "em": tuple(text_metrics.exact_match(text, golds) for text, golds in pairs),
        "f1": tuple(text_metrics.f1(text, golds) for text, golds in pairs),
        "contains": tuple(text_metrics.contains(text, golds) for text, golds in pairs),
        "rouge_l": tuple(text_metrics.rouge_l(text, golds) for text, golds in pairs),
    }


def divergences(teacher: Sequence[torch.Tensor], student: Sequence[torch.Tensor]) -> tuple[float, ...]:
    """Mean KL(teacher ‖ student) in nats per token, for each answer."""
    return tuple(
        float((t.exp() * (t - s)).sum(-1).mean().clamp(min=0)) for t, s in zip(teacher, student, strict=True)
    )
