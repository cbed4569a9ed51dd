"""The teacher: the frozen model with the full context, which provides all training targets."""

from __future__ import annotations

import math
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from memkit.compilers.base import Progress, Step, silent
from memkit.compilers.distillation.teacher_cache import teacher_responses, with_answers
from memkit.document import sentences
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.packing import answer_batch
from memkit.models.chat import text_ids
from memkit.models.loading import LoadedModel
from memkit.prompts import REPEAT, QuestionKind, is_held_out, request_about

COVERED = 0.6  # share of a sentence's words that a question and its answer must contain to cover it
Kind = Literal["reconstruction", "agnostic", "self_study"]


@dataclass(frozen=True)
class Example:
    """A query and the teacher's answer, as token ids."""

    kind: Kind
    query: tuple[int, ...]  # follows the context
    answer: tuple[int, ...]  # ends with the end token, unless cut off
    held_out: bool = False  # must not be trained on
    closed: tuple[int, ...] = ()  # closed-book: the whole prompt of the same query without a context

    @property
    def without_context(self) -> Example:
        """The same example with the closed-book prompt."""
        return replace(self, query=self.closed)


@dataclass(frozen=True)
class Target:
    """The teacher's distribution at every answer token, truncated to its ``k`` most likely tokens.

    ``ids`` and ``logprobs`` are ``[answer tokens, k]``; ``rest`` ``[answer tokens]`` is the log of the
    remaining mass.
    """

    ids: Tensor
    logprobs: Tensor
    rest: Tensor


def squared_error(target: Target, logits: Tensor) -> Tensor:
    """The mean squared error of the teacher's top k log-probabilities, ``[answer tokens]``.

    ``logits`` is ``[answer tokens, vocabulary]``. LCC §4.6 compares KL with this loss, there on logits; the
    teacher stores only log-probabilities.
    """
    student = logits.log_softmax(-1).gather(1, target.ids)
    return (student - target.logprobs).square().mean(-1)


def kl(target: Target, logits: Tensor) -> Tensor:
    """KL(teacher ‖ student) in nats for each answer token, ``[answer tokens]``.

    The tokens outside the teacher's top k count as one event, which bounds the KL from below.
    ``logits`` is ``[answer tokens, vocabulary]``.
    """
    student = logits.log_softmax(-1)
    top = student.gather(1, target.ids)
    divergence = (target.logprobs.exp() * (target.logprobs - top)).sum(-1)
    if target.ids.shape[1] == logits.shape[1]:
        return divergence
    rest = torch.log1p(-top.exp().sum(-1).clamp(max=1 - 1e-6))
    return divergence + target.rest.exp() * (target.rest - rest)


class Teacher:
    """Answers with the full context, whose KV is computed once.

    ``before`` is the KV in front of the context: the header's, followed by the memories of earlier segments
    of the document, whose tokens are ``previous``. ``progress`` is told of questions and answers.
    """

    def __init__(
        self,
        base: LoadedModel,
        context: Sequence[int],
        before: kv_cache.KVCache | None,
        previous: Sequence[int] = (),
        progress: Progress = silent,
    ) -> None:
        self.base, self.context = base, tuple(context)
        self.before, self.previous, self._progress = before, tuple(previous), progress
        self.prefix = kv_cache.prefill(base.model, context, before)

    def coverage(self, examples: Sequence[Example]) -> float:
        """The share of the context's distinct words that the answers contain."""
        decoded = (self.base.tokenizer.decode(list(e.answer), skip_special_tokens=True) for e in examples)
        words = _words(self.text)
        return len(words & _words(" ".join(map(str, decoded)))) / max(len(words), 1)

    @property
    def text(self) -> str:
        """The context, decoded."""
        return str(self.base.tokenizer.decode(list(self.context)))

    def _reporter(self, phase: str, total: int) -> Callable[[int], None]:
        started = time.perf_counter()
        return lambda done: self._progress(Step(phase, done, total, 0.0, time.perf_counter() - started))

    def _query(self, text: str) -> tuple[int, ...]:
        return tuple(self.base.chat.query(self.base.tokenizer, text, True))

    def _closed(self, text: str) -> tuple[int, ...]:
        """The prompt of a question without a context, as the engine sends it."""
        return (*self.base.chat.header, *self.base.chat.query(self.base.tokenizer, text, False))

    def reconstruction(self, start: int, size: int) -> Example:
        """An example that repeats the window ``[start, start + size)`` of the context's tokens.

        The query ends with up to ``size`` tokens that precede the window, as if the answer were half written.
        """
        before = (*self.previous, *self.context[:start])[-size:]
        window = self.context[start : start + size]
        last = start + size >= len(self.context)
        answer = (*window, self.base.chat.end) if last else window
        closed = (*self._closed(REPEAT), *before)
        return Example("reconstruction", (*self._query(REPEAT), *before), answer, closed=closed)

    def reconstructions(self, size: int, count: int, seed: int) -> list[Example]:
        """`reconstruction` examples of windows of ``size`` tokens.

        Consecutive windows cover the context; further ones at random starts (by ``seed``) make up ``count``.
        A context that fits one window gives a single example.
        """
        tokens = len(self.context)
        starts = list(range(0, tokens, size)) if size else []
        if size and tokens > size:
            random_starts = random.Random(seed).choices(
                range(tokens - size + 1), k=max(count - len(starts), 0)
            )
            starts += sorted(set(random_starts) - set(starts))
        return [self.reconstruction(start, size) for start in starts]

    def agnostic(self, queries: Sequence[str], max_tokens: int) -> list[Example]:
        """Context-agnostic queries with the frozen model's answers without a context (LCC §3.4, eq. 3)."""
        answers = teacher_responses(self.base, queries, max_tokens)
        return [
            Example("agnostic", self._query(q), a, closed=self._closed(q))
            for q, a in zip(queries, answers, strict=True)
        ]

    def write(
        self,
        requests: Sequence[str],
        seed: int,
        temperature: float = 1.0,
        max_tokens: int = 48,
        until: float = math.inf,
    ) -> list[str]:
        """The distinct questions that the model writes for these ``requests``, sampled with the context.

        ``until`` is that of `with_answers`.

        Small models also write statements: if any line ends with a question mark, all others are dropped.
        """
        prompts = [self._query(request) for request in requests]
        report = self._reporter("questions", len(prompts))
        rows = with_answers(self.base, self.prefix, prompts, max_tokens, temperature, seed, until, report)
        lines = dict[str, None]()
        for ids in rows:
            text = str(self.base.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
            if line := text.split("\n")[0].strip():
                lines[line] = None
        return [line for line in lines if line.endswith("?")] or list(lines)

    def requests(self, count: int, kinds: Sequence[QuestionKind] = ("factual",)) -> list[str]:
        """``count`` requests for questions of these kinds about the context."""
        return self.base.prompts.requests(self.text, count, kinds)

    def study(
        self,
        questions: Sequence[str],
        max_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        until: float = math.inf,
    ) -> list[Example]:
        """Examples of questions that the frozen model answers with the context, greedily or sampled.

        ``until`` is that of `with_answers`: the last questions have no example if the time is over.
        """
        queries = [self._query(text) for text in questions]
        report = self._reporter("answers", len(queries))
        answers = with_answers(self.base, self.prefix, queries, max_tokens, temperature, seed, until, report)
        return [
            Example("self_study", query, answer, is_held_out(text), self._closed(text))
            for text, query, answer in zip(questions, queries, answers, strict=False)
        ]

    def quoted(self, questions: Sequence[tuple[str, str]], max_tokens: int) -> list[Example]:
        """Examples of questions that the text itself answers, with the answers that are given."""
        end, answers = self.base.chat.end, (text_ids(self.base.tokenizer, answer) for _, answer in questions)
        return [
            Example(
                "self_study",
                self._query(question),
                tuple(answer[:max_tokens] if len(answer) >= max_tokens else [*answer, end]),
                closed=self._closed(question),
            )
            for (question, _), answer in zip(questions, answers, strict=True)
        ]

    def self_study(
        self,
        questions: Sequence[str],
        max_tokens: int,
        *,
        again: int,
        limit: int,
        seed: int,
        temperature: float,
        answer_temperature: float = 0.0,
        until: float = math.inf,
    ) -> list[Example]:
        """`study` of the ``questions`` and of their `follow_up`, with ``again`` questions for each sentence.

        ``temperature`` is for writing the follow-up questions, ``answer_temperature`` for answering them all.
        """
        examples = self.study(questions, max_tokens, answer_temperature, seed, until)
        asked = questions[: len(examples)]
        more = self.follow_up(asked, examples, again, limit, seed + 1, temperature, until)
        return [*examples, *self.study(more, max_tokens, answer_temperature, seed + 1, until)]

    def follow_up(
        self,
        questions: Sequence[str],
        examples: Sequence[Example],
        again: int,
        limit: int,
        seed: int,
        temperature: float = 1.0,
        until: float = math.inf,
    ) -> list[str]:
        """New questions, ``again`` about each sentence of the context that no question covers.

        A question covers a sentence if `COVERED` of its words are in the question and its answer (the
        ``examples``, in the same order). A held-out question covers nothing, since it is not trained on. With
        more than ``limit`` new questions, sentences are skipped evenly.
        """
        if not questions:
            return []
        covering = [
            _words(f"{question} {self.base.tokenizer.decode(list(e.answer), skip_special_tokens=True)}")
            for question, e in zip(questions, examples, strict=True)
            if not e.held_out
        ]
        text = self.text
        missed = [s for span in sentences(text) if not _covered(s := text[span.start : span.end], covering)]
        step = max(again * len(missed) / max(limit, 1), 1.0)
        chosen = [missed[int(i * step)] for i in range(int(len(missed) / step))]
        requests = [request_about(sentence) for sentence in chosen for _ in range(again)]
        existing = set(questions)
        written = self.write(requests, seed, temperature, until=until) if requests else []
        return [q for q in written if q not in existing]

    def targets(self, examples: Sequence[Example], top_k: int) -> list[Target]:
        """The teacher's distributions over the examples' answers."""
        return targets(self.base, self.prefix, examples, top_k)


@torch.no_grad()
def targets(
    base: LoadedModel,
    prefix: kv_cache.KVCache | None,
    examples: Sequence[Example],
    top_k: int,
    batch: int = 16,
) -> list[Target]:
    """The frozen model's distributions over the examples' answers, after ``prefix``."""
    distributions = list[Target]()
    for group in kv_cache.chunked(examples, batch):
        pairs = [(e.query, e.answer) for e in group]
        answers = answer_batch(base.model, pairs, prefix)
        logprobs = kv_cache.answer_logits(base.model, prefix, answers).log_softmax(-1)
        for part in logprobs.split([len(e.answer) for e in group]):
            distributions.append(_truncated(part, top_k))
    return distributions


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _covered(sentence: str, covering: Sequence[set[str]]) -> bool:
    words = _words(sentence)
    return any(len(words & each) >= COVERED * len(words) for each in covering)


def _truncated(logprobs: Tensor, top_k: int) -> Target:
    k = min(top_k or logprobs.shape[1], logprobs.shape[1])
    best = logprobs.topk(k)
    rest = torch.log1p(-best.values.exp().sum(-1).clamp(max=1 - 1e-6))
    return Target(best.indices, best.values, rest)
