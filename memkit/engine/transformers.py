"""The embedded engine: transformers, in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import torch

from memkit.artifact import Artifact
from memkit.engine import kv
from memkit.engine.base import Completion, Handle, Request, Score
from memkit.errors import ContextTooLongError, EngineError
from memkit.models.loading import LoadedModel, load

MAX_BATCH = 16  # rows that are decoded together


class TransformersEngine:
    """Answers with a frozen `transformers` model; the header is read once, artifacts stay attached.

    Calls from several threads are served one after the other.
    """

    def __init__(self, model: LoadedModel | str = "nano") -> None:
        self.base = load(model) if isinstance(model, str) else model
        self._lock = threading.RLock()
        header = list(self.base.chat.header)
        self._header = kv.prefill(self.base.model, header) if header else None
        self._attached: dict[str, kv.KV] = {}

    @property
    def fingerprint(self) -> str:
        return self.base.fingerprint

    @property
    def model(self) -> str:
        return self.base.name

    @property
    def window(self) -> int:
        return self.base.window

    # -- artifacts ------------------------------------------------------------------------------
    def attach(self, artifact: Artifact) -> Handle:
        artifact.require(self.fingerprint)
        if artifact.manifest.kind != "kv":
            raise EngineError(f"this engine attaches kv artifacts, not {artifact.manifest.kind!r}")
        with self._lock:
            if artifact.id not in self._attached:
                self._attached[artifact.id] = self._join(artifact)
        return Handle(artifact.id, artifact.manifest.tokens)

    def _join(self, artifact: Artifact) -> kv.KV:
        """Header and artifact as one prefix; its tensors are ``[layer, kv_head, token, head_dim]``."""
        model = self.base.model
        keys, values = (
            tuple(layer[None].to(model.device, model.dtype) for layer in artifact.tensor(name))
            for name in ("keys", "values")
        )
        if len(keys) != int(model.config.num_hidden_layers):
            raise EngineError(
                f"the artifact has {len(keys)} layers, the model {model.config.num_hidden_layers}"
            )
        memory = kv.KV(keys, values)
        return self._header.join(memory) if self._header else memory

    def detach(self, handle: Handle) -> None:
        with self._lock:
            self._attached.pop(handle.artifact_id, None)

    # -- requests -------------------------------------------------------------------------------
    def count_tokens(self, text: str) -> int:
        return len(self.encode(text))

    def encode(self, text: str) -> list[int]:
        return list(self.base.tokenizer.encode(text, add_special_tokens=False))

    def prefix(self, request: Request) -> kv.KV | None:
        """KV of everything in front of a request's question; None when that is nothing."""
        if request.handle is not None:
            try:
                return self._attached[request.handle.artifact_id]
            except KeyError:
                raise EngineError(f"artifact {request.handle.artifact_id[:12]} is not attached") from None
        if request.context is not None:
            return kv.prefill(self.base.model, self.encode(request.context), self._header)
        return self._header

    def _query(self, request: Request) -> list[int]:
        remembered = request.handle is not None or request.context is not None
        return self.base.chat.query(self.base.tokenizer, request.question, remembered)

    def _prompt_tokens(self, request: Request, query: list[int]) -> int:
        context = self.count_tokens(request.context) if request.context is not None else 0
        memory = request.handle.tokens if request.handle else 0
        return len(self.base.chat.header) + memory + context + len(query)

    def _check(self, request: Request, query: list[int]) -> int:
        prompt = self._prompt_tokens(request, query)
        if prompt + 1 > self.window:
            raise ContextTooLongError(
                f"the prompt has {prompt} tokens, the model reads {self.window}; "
                "shorten the question, or remember the document instead of sending it"
            )
        return prompt

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        prepared = [(request, self._query(request)) for request in requests]
        lengths = [self._check(request, query) for request, query in prepared]
        return self._generate(prepared, lengths)

    def _generate(
        self, prepared: Sequence[tuple[Request, list[int]]], lengths: Sequence[int]
    ) -> Iterator[Completion]:
        for group in _groups([request for request, _ in prepared]):
            yield from self._batch(prepared[group], lengths[group])

    def _batch(self, group: Sequence[tuple[Request, list[int]]], lengths: Sequence[int]) -> list[Completion]:
        """Requests with the same prefix and settings, decoded together."""
        first, room = group[0][0], self.window - max(lengths)
        with self._lock:
            started = time.perf_counter()
            prefix = self.prefix(first)
            prefill_ms = (time.perf_counter() - started) * 1000
            decoded = kv.decode(
                self.base.model,
                prefix,
                [query for _, query in group],
                max_tokens=min(first.max_tokens, room),
                end=self.base.chat.end,
                temperature=first.temperature,
                generator=torch.Generator(self.base.model.device).manual_seed(first.seed),
            )
            total = (time.perf_counter() - started) * 1000
        return [
            Completion(self.decode(d.ids), len(d.ids), length, prefill_ms + d.ttft_ms, total)
            for d, length in zip(decoded, lengths, strict=True)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.base.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def score(self, requests: Sequence[Request]) -> list[Score]:
        scores = list[Score]()
        for request in requests:
            query = self._query(request)
            self._check(request, query)
            with self._lock:
                (decoded,) = kv.decode(
                    self.base.model, self.prefix(request), [query], max_tokens=1, end=self.base.chat.end
                )
            best = int(decoded.first_logprobs.argmax())
            scores.append(
                Score(
                    kv.entropy(decoded.first_logprobs),
                    float(decoded.first_logprobs[best]),
                    self.decode([best]),
                    tuple(decoded.first_hidden.float().tolist()),
                )
            )
        return scores

    def likelihood(self, requests: Sequence[Request], answers: Sequence[str]) -> list[float]:
        if len(requests) != len(answers):
            raise ValueError(f"{len(requests)} requests but {len(answers)} answers")
        prepared = [
            (request, self._query(request), [*self.encode(answer), self.base.chat.end])
            for request, answer in zip(requests, answers, strict=True)
        ]
        for request, query, said in prepared:
            self._check(request, [*query, *said])
        means = list[float]()
        for group in _groups(requests):
            means += self._likelihood(requests[group.start], [(q, said) for _, q, said in prepared[group]])
        return means

    def _likelihood(self, request: Request, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        """Mean log-probabilities of answers behind one shared prefix."""
        with self._lock, torch.no_grad():
            prefix = self.prefix(request)
            if prefix is None:  # a prefix is needed to batch behind; without a header there is none
                first = pairs[0][0][:1]
                if any(query[:1] != first for query, _ in pairs):
                    return [mean for pair in pairs for mean in self._likelihood(request, [pair])]
                prefix = kv.prefill(self.base.model, first)
                pairs = [(query[1:], said) for query, said in pairs]
            batch = kv.AnswerBatch.of(pairs, prefix.tokens, self.base.model.device)
            logprobs = kv.answer_logits(self.base.model, prefix, batch).log_softmax(-1)
        given = logprobs.gather(1, batch.target[:, None])
        return [float(part.mean()) for part in given.split([len(said) for _, said in pairs])]


def _groups(requests: Sequence[Request]) -> Iterator[slice]:
    """Runs of at most `MAX_BATCH` requests with the same prefix and settings."""
    start = 0
    for at in range(1, len(requests) + 1):
        full = at - start == MAX_BATCH
        if at == len(requests) or full or not _batchable(requests[start], requests[at]):
            yield slice(start, at)
            start = at


def _batchable(a: Request, b: Request) -> bool:
    same = ("handle", "context", "max_tokens", "temperature", "seed")
    return all(getattr(a, name) == getattr(b, name) for name in same)
