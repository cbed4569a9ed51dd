"""The frozen model with the whole context in view: where every training target comes from."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from memkit.compilers.distillation.teacher_cache import teacher_responses, with_answers
from memkit.document import sentences
from memkit.engine.transformers import kv_cache
from memkit.models.loading import LoadedModel
from memkit.prompts import REPEAT, QuestionKind, is_held_out, request_about

COVERED = 0.6  # of a sentence's words
Kind = Literal["reconstruction", "agnostic", "self_study"]


@dataclass(frozen=True)
class Example:
    """A query and the teacher's answer to it, as token ids; the answer ends with the end token.

    ``query`` follows the context; ``closed`` is the whole prompt of the same query without one.
    """

    kind: Kind
    query: tuple[int, ...]
    answer: tuple[int, ...]
    held_out: bool = False  # never to be trained on
    closed: tuple[int, ...] = ()

    @property
    def without_context(self) -> Example:
        return replace(self, query=self.closed)


@dataclass(frozen=True)
class Target:
    """The teacher's distribution at every answer token, cut to its ``k`` likeliest tokens.

    ``ids`` and ``logprobs`` are ``[answer tokens, k]``; ``rest`` is the log of the mass left out,
    ``[answer tokens]``. With ``k`` = vocabulary nothing is left out.
    """

    ids: Tensor
    logprobs: Tensor
    rest: Tensor


def squared_error(target: Target, logits: Tensor) -> Tensor:
    """Mean squared error over the teacher's k likeliest tokens' log-probabilities, ``[answer tokens]``.

    The loss that LCC §4.6 compares KL with; log-probabilities, not logits, because those are what
    the teacher keeps.
    """
    student = logits.log_softmax(-1).gather(1, target.ids)
    return (student - target.logprobs).square().mean(-1)


def kl(target: Target, logits: Tensor) -> Tensor:
    """KL(teacher ‖ student) in nats for each answer token, ``[answer tokens]``.

    The tokens outside the teacher's top k count as one event, which bounds the KL from below.
    ``logits`` is ``[answer tokens, vocabulary]``.
    """
    student = logits.log_softmax(-1)
    kept = student.gather(1, target.ids)
    divergence = (target.logprobs.exp() * (target.logprobs - kept)).sum(-1)
    if target.ids.shape[1] == logits.shape[1]:
        return divergence
    left = torch.log1p(-kept.exp().sum(-1).clamp(max=1 - 1e-6))
    return divergence + target.rest.exp() * (target.rest - left)


class Teacher:
    """Answers with the full context, and remembers nothing between calls but the context's KV.

    ``before`` is what stands in front of the context: the header's KV, and the memories of earlier
    pieces of the same document, whose tokens are ``previous``.
    """

    def __init__(
        self,
        base: LoadedModel,
        context: Sequence[int],
        before: kv_cache.KVCache | None,
        previous: Sequence[int] = (),
    ) -> None:
        self.base, self.context = base, tuple(context)
        self.before, self.previous = before, tuple(previous)
        self.prefix = kv_cache.prefill(base.model, context, before)

    @property
    def text(self) -> str:
        """The context."""
        return str(self.base.tokenizer.decode(list(self.context)))

    def _query(self, text: str) -> tuple[int, ...]:
        return tuple(self.base.chat.query(self.base.tokenizer, text, True))

    def _closed(self, text: str) -> tuple[int, ...]:
        """The prompt of a question without a context, as the engine sends it."""
        return (*self.base.chat.header, *self.base.chat.query(self.base.tokenizer, text, False))

    def reconstruction(self, start: int, size: int) -> Example:
        """ "Please repeat the context" for the window ``[start, start + size)`` of its tokens.

        A window that does not begin the context follows what comes before it, as if the answer
        were half written: the query carries up to ``size`` preceding tokens.
        """
        before = (*self.previous, *self.context[:start])[-size:]
        window = self.context[start : start + size]
        last = start + size >= len(self.context)
        answer = (*window, self.base.chat.end) if last else window
        closed = (*self._closed(REPEAT), *before)
        return Example("reconstruction", (*self._query(REPEAT), *before), answer, closed=closed)

    def reconstructions(self, size: int, count: int, seed: int) -> list[Example]:
        """`reconstruction` of windows of ``size`` tokens: one after the other, then at random starts.

        Those that cover the context come first, however many; random ones fill up to ``count``. A
        context that one window holds gives one example, as all would be equal.
        """
        tokens = len(self.context)
        starts = list(range(0, tokens, size)) if size else []
        if size and tokens > size:
            drawn = random.Random(seed).choices(range(tokens - size + 1), k=max(count - len(starts), 0))
            starts += sorted(set(drawn) - set(starts))
        return [self.reconstruction(start, size) for start in starts]

    def agnostic(self, queries: Sequence[str], max_tokens: int) -> list[Example]:
        """Context-agnostic queries with the frozen model's own answers (LCC §3.4, eq. 3)."""
        answers = teacher_responses(self.base, queries, max_tokens)
        return [
            Example("agnostic", self._query(q), a, closed=self._closed(q))
            for q, a in zip(queries, answers, strict=True)
        ]

    def write(
        self, requests: Sequence[str], seed: int, temperature: float = 1.0, max_tokens: int = 48
    ) -> list[str]:
        """The distinct questions that the model writes at these ``requests``, sampled, context in view.

        Small models also write statements: where anything ends with a question mark, the rest is dropped.
        """
        prompts = [self._query(request) for request in requests]
        rows = with_answers(self.base, self.prefix, prompts, max_tokens, temperature, seed)
        asked = dict[str, None]()
        for ids in rows:
            said = str(self.base.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()
            if line := said.split("\n")[0].strip():
                asked[line] = None
        return [line for line in asked if line.endswith("?")] or list(asked)

    def questions(self, count: int, seed: int, temperature: float = 1.0, max_tokens: int = 48) -> list[str]:
        """At most ``count`` distinct questions that the model writes about the context, sampled."""
        return self.write(self.requests(count), seed, temperature, max_tokens)

    def requests(self, count: int, kinds: Sequence[QuestionKind] = ("factual",)) -> list[str]:
        """``count`` requests for questions of these kinds about the context."""
        return self.base.prompts.requests(self.text, count, kinds)

    def study(
        self, questions: Sequence[str], max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[Example]:
        """Questions answered by the frozen model with the context in view: greedily, or sampled."""
        queries = [self._query(text) for text in questions]
        answers = with_answers(self.base, self.prefix, queries, max_tokens, temperature, seed)
        return [
            Example("self_study", query, answer, is_held_out(text), self._closed(text))
            for text, query, answer in zip(questions, queries, answers, strict=True)
        ]

    def self_study(
        self,
        asked: Sequence[str],
        max_tokens: int,
        *,
        again: int,
        most: int,
        seed: int,
        temperature: float,
        answers: float = 0.0,
    ) -> list[Example]:
        """`study` of what was ``asked``, then of its `follow_up`, ``again`` times a sentence.

        ``temperature`` is that of writing questions, ``answers`` that of answering them.
        """
        examples = self.study(asked, max_tokens, answers, seed)
        more = self.follow_up(asked, examples, again, most, seed + 1, temperature)
        return [*examples, *self.study(more, max_tokens, answers, seed + 1)]

    def follow_up(
        self,
        asked: Sequence[str],
        examples: Sequence[Example],
        each: int,
        most: int,
        seed: int,
        temperature: float = 1.0,
    ) -> list[str]:
        """New questions, ``each`` times one about every sentence that ``asked`` leaves out.

        Where those are more than ``most``, sentences are passed over, evenly.
        A question covers a sentence if most of its words are in the question and its answer, the
        ``examples``'. One that is held out covers nothing: it is never trained on.
        """
        if not asked:
            return []
        said = [
            _words(f"{question} {self.base.tokenizer.decode(list(e.answer), skip_special_tokens=True)}")
            for question, e in zip(asked, examples, strict=True)
            if not e.held_out
        ]
        text = self.text
        missed = [s for span in sentences(text) if not _covered(s := text[span.start : span.end], said)]
        step = max(each * len(missed) / max(most, 1), 1.0)
        chosen = [missed[int(i * step)] for i in range(int(len(missed) / step))]
        requests = [request_about(sentence) for sentence in chosen for _ in range(each)]
        known = set(asked)
        return [q for q in self.write(requests, seed, temperature) if q not in known] if requests else []

    def targets(self, examples: Sequence[Example], top_k: int) -> list[Target]:
        """The teacher's distributions, computed once for the whole compilation."""
        return targets(self.base, self.prefix, examples, top_k)


@torch.no_grad()
def targets(
    base: LoadedModel,
    prefix: kv_cache.KVCache | None,
    examples: Sequence[Example],
    top_k: int,
    batch: int = 8,
) -> list[Target]:
    """The frozen model's distributions over the examples' answers, behind ``prefix``."""
    made = list[Target]()
    for group in kv_cache.chunked(examples, batch):
        pairs = [(e.query, e.answer) for e in group]
        answers = kv_cache.AnswerBatch.of(pairs, prefix.tokens if prefix else 0, base.model.device)
        logprobs = kv_cache.answer_logits(base.model, prefix, answers).log_softmax(-1)
        for part in logprobs.split([len(e.answer) for e in group]):
            made.append(_cut(part, top_k))
    return made


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _covered(sentence: str, said: Sequence[set[str]]) -> bool:
    words = _words(sentence)
    return any(len(words & known) >= COVERED * len(words) for known in said)


def _cut(logprobs: Tensor, top_k: int) -> Target:
    k = min(top_k or logprobs.shape[1], logprobs.shape[1])
    best = logprobs.topk(k)
    left = torch.log1p(-best.values.exp().sum(-1).clamp(max=1 - 1e-6))
    return Target(best.indices, best.values, left)
