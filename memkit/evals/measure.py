"""Measure a memory: scores of its answers, divergence from the full context, drift, time to first token."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from memkit import text_metrics
from memkit.engine.base import Handle, Request
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.engine import TransformersEngine
from memkit.engine.transformers.prefixes import Prefix
from memkit.evals import answering, records
from memkit.models.nano.general import HELD_OUT
from memkit.models.prompt_sets import prompt_set

TTFT_SECONDS = 4.0  # after which there are no more repeats, for long contexts
SHORT_ANSWER_TOKENS, SHORT_ANSWER_WORDS = 16, 6  # the limit of answers whose gold has that many words
ANSWER_TOKENS = 48
LONG_ANSWER_TOKENS = 192  # of answers that are scored by ROUGE
GENERAL_TOKENS = 16
KL_TOKENS = 128


@dataclass(frozen=True)
class Reference:
    """The answers with the full context to a record's questions and to general ones."""

    record: records.Record
    reader: Prefix
    answers: list[answering.Answer]
    general: list[answering.Answer]

    @property
    def questions(self) -> list[str]:
        return [q.text for q in self.record.questions]


class MethodEvaluator:
    """Measures methods on one engine; each is a prefix: a model with the KV in front of a question.

    ``drift`` are general questions to measure drift on; () takes nano's. The divergence is measured on all of
    them, the points on those with answers. None does not measure drift. ``ttft`` is the number of times to
    first token that are measured, ``tokens`` the maximal length of answers (None: by the gold answers).
    """

    def __init__(
        self,
        engine: TransformersEngine,
        drift: Sequence[records.Question] | None = (),
        ttft: int = 1,
        tokens: int | None = None,
    ) -> None:
        self.engine, self.drift, self.ttft, self.tokens = engine, drift, ttft, tokens
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

    def _queries(self, reader: Prefix, questions: Sequence[str]) -> list[list[int]]:
        return [reader.query(self.engine.base, question) for question in questions]

    def _answer(
        self,
        reader: Prefix,
        queries: Sequence[Sequence[int]],
        limits: Sequence[int],
        drafts: Sequence[answering.Answer] | None = None,
    ) -> list[answering.Answer]:
        """Answers to queries (token ids), which an answer with the full context may be the draft of."""
        known: list[Sequence[int]] = [d.tokens for d in drafts] if drafts is not None else [()] * len(queries)
        asked = [answering.Question(*parts) for parts in zip(queries, limits, known, strict=True)]
        return answering.answer(reader, asked, self.engine.base.chat.end)

    def _text(self, answer: answering.Answer) -> str:
        end = self.engine.base.chat.end
        return self.engine.decode([token for token in answer.tokens if token != end])

    def _general_scores(self, reader: Prefix) -> list[float]:
        queries = self._queries(reader, [q for q, _ in self.general])
        answers = self._answer(reader, queries, [GENERAL_TOKENS] * len(queries))
        return [
            text_metrics.contains(self._text(answer), golds)
            for answer, (_, golds) in zip(answers, self.general, strict=True)
        ]

    # -- a record -------------------------------------------------------------------------------
    def _limits(self, record: records.Record) -> list[int]:
        """The maximal length of each answer, in tokens."""
        return [self.tokens or answer_limit(question, record.metric) for question in record.questions]

    def fits(self, record: records.Record) -> bool:
        """Whether the full context, a question and its answer fit the model's window."""
        longest = max(self.engine.count_tokens(q.text) for q in record.questions)
        chat = self.engine.base.chat
        around = len(chat.header) + len(chat.tail) + longest + max(self._limits(record)) + 8  # separator, end
        return self.engine.count_tokens(record.context) + around <= self.engine.window

    def reference(self, record: records.Record) -> Reference:
        """Answer a record's questions and the general ones with the full context."""
        full = self.reader(context=record.context)
        queries = self._queries(full, [q.text for q in record.questions])
        answers = self._answer(full, queries, self._limits(record))
        general = self._queries(full, self.drift_questions)
        return Reference(record, full, answers, self._answer(full, general, [GENERAL_TOKENS] * len(general)))

    def measure(self, reference: Reference, reader: Prefix) -> dict[str, Any]:
        """Fields of a `Cell`: scores, divergences and drift of the answers after a prefix."""
        if reader is reference.reader:  # the full context, which has answered already
            answers = reference.answers
        else:
            queries = self._queries(reader, reference.questions)
            answers = self._answer(reader, queries, self._limits(reference.record), reference.answers)
        return self._figures(reference, reader, answers) | self._drift(reference, reader)

    def measure_each(self, reference: Reference, contexts: Sequence[str]) -> dict[str, Any]:
        """Like `measure`, with a separate context for every question; drift is measured with the first.

        The contexts are read together with their questions, in one batch.
        """
        header = replace(
            self.reader(), follows=True
        )  # the question follows a context, which is part of the query
        pairs = zip(contexts, self._queries(header, reference.questions), strict=True)
        queries = [[*self.engine.encode(context), *query] for context, query in pairs]
        answers = self._answer(header, queries, self._limits(reference.record), reference.answers)
        figures = self._figures(reference, header, answers)
        drifts = self.drift is not None
        return figures | (self._drift(reference, self.reader(context=contexts[0])) if drifts else {})

    def _figures(
        self, reference: Reference, reader: Prefix, answers: Sequence[answering.Answer]
    ) -> dict[str, Any]:
        """Scores against the gold answers, agreement with the full context's answers and divergence."""
        texts = [self._text(answer) for answer in answers]
        full = [self._text(answer) for answer in reference.answers]
        pairs = list(zip(texts, full, strict=True))
        return {
            **scores(texts, reference.record.questions),
            "agreement": tuple(text_metrics.contains(text, [other]) for text, other in pairs),
            "agreement_f1": tuple(text_metrics.f1(text, [other]) for text, other in pairs),
            "kl": divergences(reference.reader, reference.answers, reader, answers),
        }

    def _drift(self, reference: Reference, reader: Prefix) -> dict[str, Any]:
        """Divergence on general questions, and the scores of those with answers; empty without drift."""
        if self.drift is None:
            return {}
        if reader is reference.reader:
            answers = reference.general
        else:
            queries = self._queries(reader, self.drift_questions)
            answers = self._answer(reader, queries, [GENERAL_TOKENS] * len(queries), reference.general)
        return {
            "drift_kl": divergences(reference.reader, reference.general, reader, answers),
            "general": tuple(self._general_scores(reader)),
        }

    def timed(self, request: Request) -> dict[str, Any]:
        """The prompt's length, and the times to first token of repeated requests."""
        times, first = list[float](), replace(request, max_tokens=1)
        warm_up = 1 if self.ttft > 1 else 0
        for repeat in range(self.ttft + warm_up):
            (completion,) = self.engine.generate([first])
            if repeat >= warm_up:
                times.append(completion.ttft_ms)
            if times and sum(times) >= TTFT_SECONDS * 1000:
                break
        return {"ttft_ms": tuple(times), "prompt_tokens": float(self.prompt_tokens(request))}

    def prompt_tokens(self, request: Request) -> int:
        """The length of a request's prompt."""
        chat, context = self.engine.base.chat, request.context
        memory = request.handle.tokens if request.handle else 0
        query = chat.query(self.engine.base.tokenizer, request.question, request.follows)
        return len(chat.header) + memory + self.engine.count_tokens(context or "") + len(query)


def answer_limit(question: records.Question, metric: str) -> int:
    """The maximal length of an answer in tokens, in proportion to the longest gold answer's.

    A model that goes on to talk would otherwise take most of an evaluation's time.
    """
    words = max((len(gold.split()) for gold in question.answers), default=0)
    longest = LONG_ANSWER_TOKENS if metric == "rouge_l" else ANSWER_TOKENS
    proportional = math.ceil(words * SHORT_ANSWER_TOKENS / SHORT_ANSWER_WORDS)
    return min(max(proportional, SHORT_ANSWER_TOKENS), longest)


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


def divergences(
    teacher: Prefix,
    taught: Sequence[answering.Answer],
    student: Prefix,
    answers: Sequence[answering.Answer],
) -> tuple[float, ...]:
    """Mean KL(teacher ‖ student) in nats per token of the teacher's answer, for each answer.

    Distributions ``[token, vocabulary]`` are computed for `KL_TOKENS` tokens at a time: those of many answers
    over a large vocabulary take gigabytes, the hidden states they come from do not.
    """
    if answers is taught:
        return (0.0,) * len(answers)
    if not answers:
        return ()
    pairs = zip(_logprobs(teacher, taught), _logprobs(student, answers), strict=True)
    by_token = [(t.exp() * (t - s)).sum(-1) for t, s in pairs]
    parts = torch.cat(by_token).split([len(answer.states) for answer in answers])
    return tuple(float(part.mean().clamp(min=0)) for part in parts)


@torch.no_grad()
def _logprobs(reader: Prefix, answers: Sequence[answering.Answer]) -> Iterator[Tensor]:
    """Log-probabilities ``[token, vocabulary]`` of `KL_TOKENS` tokens after another, of all answers."""
    head = kv_cache.output_layer(reader.model)
    for states in torch.cat([answer.states for answer in answers]).split(KL_TOKENS):
        logits: Tensor = head(states)
        yield logits.float().log_softmax(-1)
