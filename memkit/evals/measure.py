"""What is measured of a memory: answers, divergences from the full context, drift, times."""

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
TTFT_SECONDS = 4.0  # after which there are no more repeats: long contexts are not read five times
ANSWER_TOKENS = 48
LONG_ANSWER_TOKENS = 192  # where answers are scored by ROUGE
GENERAL_TOKENS = 16


@dataclass(frozen=True)
class Reference:
    """The full context's own answers to a record, and its log-probabilities of them."""

    record: records.Record
    reader: Prefix
    asked: list[tuple[str, list[int]]]
    logprobs: list[torch.Tensor]
    aside: list[tuple[str, list[int]]]  # general questions
    aside_logprobs: list[torch.Tensor]

    @property
    def questions(self) -> list[str]:
        return [q.text for q in self.record.questions]


class MethodEvaluator:
    """Measures readers on one engine: models with what stands in front of a question.

    ``drift`` are general questions to measure drift on instead of nano's: the divergence on all of them, and
    the points on those that have answers. With None, drift is not measured.
    """

    def __init__(self, engine: TransformersEngine, drift: Sequence[records.Question] | None = ()) -> None:
        self.engine, self.drift = engine, drift
        self.general, self.aside = list[tuple[str, tuple[str, ...]]](), list[str]()
        self.bare_general: float | None = None
        if drift is None:
            return
        self.general = [(q.text, q.answers) for q in drift if q.answers]
        # A quarter of them for models that were not trained on them, which are larger and take minutes.
        known = prompt_set(engine.model).known_answers or HELD_OUT[::4]
        self.general = self.general or [(q, (a,)) for q, a in known]
        self.aside = [q.text for q in drift] or [q for q, _ in HELD_OUT[::4]]
        self.bare_general = text_metrics.mean(self._general_scores(self.reader()))

    # -- pieces ---------------------------------------------------------------------------------
    def reader(self, handle: Handle | None = None, context: str | None = None) -> Prefix:
        """Who reads a question behind an artifact, a context or nothing."""
        return self.engine.reader(Request("?", handle=handle, context=context))

    def behind(self, prefix: kv_cache.KVCache) -> Prefix:
        """The frozen model behind what stands for a context."""
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
    def _logprobs(self, reader: Prefix, asked: Sequence[tuple[str, list[int]]]) -> list[torch.Tensor]:
        """Log-probabilities ``[answer tokens, vocabulary]`` of each given answer."""
        base, out = self.engine.base, list[torch.Tensor]()
        for group in kv_cache.chunked(asked, 16):
            pairs = [(reader.query(base, q), a) for q, a in group]
            batch = kv_cache.AnswerBatch.of(pairs, reader.tokens, base.model.device)
            logits = kv_cache.answer_logits(reader.model, reader.prefix, batch).log_softmax(-1)
            out += logits.split([len(a) for _, a in group])
        return out

    # -- a record -------------------------------------------------------------------------------
    def fits(self, record: records.Record) -> bool:
        """Whether the model can read the whole context and answer: without that there is no reference."""
        longest = max(self.engine.count_tokens(q.text) for q in record.questions)
        chat = self.engine.base.chat
        around = len(chat.header) + len(chat.tail) + longest + _room(record) + 8  # 8: separator, end
        return self.engine.count_tokens(record.context) + around <= self.engine.window

    def reference(self, record: records.Record) -> Reference:
        """Answer a record's questions, and some general ones, with the full context."""
        end, full = self.engine.base.chat.end, self.reader(context=record.context)

        def answered(questions: list[str], tokens: int) -> list[tuple[str, list[int]]]:
            said = self._decode(full, questions, tokens)
            return [(q, [*ids, end]) for q, ids in zip(questions, said, strict=True)]

        asked = answered([q.text for q in record.questions], _room(record))
        aside = answered(self.aside, GENERAL_TOKENS)
        logprobs, aside_logprobs = (self._logprobs(full, given) for given in (asked, aside))
        return Reference(record, full, asked, logprobs, aside, aside_logprobs)

    def measure(self, reference: Reference, reader: Prefix) -> dict[str, Any]:
        """Fields of a `Cell`: scores, divergences and drift of a reader's answers."""
        if reader is reference.reader:  # it has answered already
            ids, logprobs = [answer[:-1] for _, answer in reference.asked], reference.logprobs
        else:
            ids = self._decode(reader, reference.questions, _room(reference.record))
            logprobs = self._logprobs(reader, reference.asked)
        return {
            **self._scores([self.engine.decode(answer) for answer in ids], reference),
            "kl": divergences(reference.logprobs, logprobs),
            "drift_kl": divergences(reference.aside_logprobs, self._logprobs(reader, reference.aside)),
            "general": tuple(self._general_scores(reader)),
        }

    def _scores(self, texts: Sequence[str], reference: Reference) -> dict[str, Any]:
        """Scores against the gold answers, and agreement with the full context's."""
        full = [self.engine.decode(ids[:-1]) for _, ids in reference.asked]
        agreement = [text_metrics.contains(text, [given]) for text, given in zip(texts, full, strict=True)]
        return {**scores(texts, reference.record.questions), "agreement": tuple(agreement)}

    def each(self, reference: Reference, readers: Sequence[Prefix]) -> dict[str, Any]:
        """As `measure`, with a reader of its own for every question; drift is that of the first."""
        texts, kls = list[str](), list[float]()
        for reader, asked, logprobs in zip(readers, reference.asked, reference.logprobs, strict=True):
            (ids,) = self._decode(reader, [asked[0]], _room(reference.record))
            texts.append(self.engine.decode(ids))
            kls += divergences([logprobs], self._logprobs(reader, [asked]))
        aside = self._logprobs(readers[0], reference.aside)
        return {
            **self._scores(texts, reference),
            "kl": tuple(kls),
            "drift_kl": divergences(reference.aside_logprobs, aside),
            "general": tuple(self._general_scores(readers[0])),
        }

    def timed(self, request: Request) -> dict[str, Any]:
        """Times to the first token of repeated requests, and the prompt's length."""
        times, first = list[float](), replace(request, max_tokens=1)
        for repeat in range(TTFT_REPEATS):
            (completion,) = self.engine.generate([first])
            if repeat:  # the first one warms up
                times.append(completion.ttft_ms)
            if times and sum(times) >= TTFT_SECONDS * 1000:
                break
        return {"ttft_ms": tuple(times), "prompt_tokens": float(completion.prompt_tokens)}


def _room(record: records.Record) -> int:
    """Tokens of an answer."""
    return LONG_ANSWER_TOKENS if record.metric == "rouge_l" else ANSWER_TOKENS


def scores(texts: Sequence[str], asked: Sequence[records.Question]) -> dict[str, Any]:
    """Scores of answers against the gold ones, question by question."""
    pairs = list(zip(texts, [q.answers for q in asked], strict=True))
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
