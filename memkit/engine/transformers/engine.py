"""The embedded engine: runs a `transformers` model in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from memkit.artifact.format import Artifact
from memkit.engine.artifact_cache import ArtifactCache
from memkit.engine.base import Completion, Handle, Request, Score
from memkit.engine.streaming import IncrementalText
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.prefixes import Prefix, Prefixes
from memkit.engine.transformers.probe import Prefilled, continue_from, full_prefix, prefill_side_by_side
from memkit.errors import ContextTooLongError, EngineError
from memkit.models.chat import text_ids
from memkit.models.loading import LoadedModel, load

MAX_BATCH = 16  # rows that are decoded together
Prompt = tuple[str, str | None, str | None, tuple[tuple[str, str], ...], str]


def prompt_of(request: Request) -> Prompt:
    """A key for a request's prompt: question, artifact id, context, history, instructions."""
    artifact_id = request.handle.artifact_id if request.handle else None
    return request.question, artifact_id, request.context, request.history, request.system


def memory_of(request: Request) -> tuple[str | None, str | None]:
    """A key for the memory of a request's prompt: artifact id, context."""
    return prompt_of(request)[1:3]


class TransformersEngine:
    """Answers with a frozen `transformers` model, given loaded or by a name for `memkit.models.loading.load`.

    The header is prefilled once. A LoRA artifact is attached to a copy of the model that shares its weights,
    so it does not affect other requests. Concurrent calls are serialized.
    """

    def __init__(self, model: LoadedModel | str = "nano") -> None:
        self.base = load(model) if isinstance(model, str) else model
        self._lock = threading.RLock()
        self._prefixes = Prefixes(self.base)
        self._header = self._prefixes.header
        self._attached = ArtifactCache[Prefix](self._dropped)
        self._texts = ArtifactCache[Prefix](lambda text, prefix: None)  # by the text, while `prefilled`
        self._probed: dict[Prompt, tuple[Prefix, Prefilled]] = {}  # of the last question, to continue from

    @property
    def fingerprint(self) -> str:
        return self.base.fingerprint

    @property
    def model(self) -> str:
        return self.base.name

    @property
    def window(self) -> int:
        return self.base.window

    def for_tenant(self, tenant: str) -> TransformersEngine:
        """This engine itself: its caches are keyed by artifact ids and by the texts themselves."""
        return self

    # -- artifacts ------------------------------------------------------------------------------
    def attach(self, artifact: Artifact) -> Handle:
        artifact.require(self.fingerprint)
        with self._lock:
            self._attached.pin(artifact.id, lambda: self._prefixes.of(artifact))
        return Handle(artifact.id, artifact.manifest.tokens)

    def detach(self, handle: Handle) -> None:
        with self._lock:
            self._attached.unpin(handle.artifact_id)

    @contextmanager
    def attached(self, artifact: Artifact, keep: bool = True) -> Iterator[Handle]:
        artifact.require(self.fingerprint)
        with self._lock:
            self._attached.use(artifact.id, lambda: self._prefixes.of(artifact), keep)
        try:
            yield Handle(artifact.id, artifact.manifest.tokens)
        finally:
            with self._lock:
                self._attached.free(artifact.id)

    @property
    def holds(self) -> list[str]:
        """Ids of the artifacts that are attached or kept ready."""
        return list(self._attached)

    def discard(self, artifact_id: str) -> None:
        with self._lock:
            self._attached.discard(artifact_id)

    def _dropped(self, artifact_id: str, prefix: Prefix) -> None:
        self._probed = {prompt: row for prompt, row in self._probed.items() if prompt[1] != artifact_id}

    # -- requests -------------------------------------------------------------------------------
    def count_tokens(self, text: str) -> int:
        return len(self.encode(text))

    def encode(self, text: str) -> list[int]:
        return text_ids(self.base.tokenizer, text)

    def reader(self, request: Request) -> Prefix:
        """The model that reads a request's question, and the KV in front of it.

        Raises `EngineError` for a handle that is not attached.
        """
        if request.handle is not None:
            attached = self._attached.get(request.handle.artifact_id)
            if attached is None:
                raise EngineError(f"artifact {request.handle.artifact_id[:12]} is not attached")
            return attached
        if request.context is not None:
            return self._texts.get(request.context) or self._read(request.context)
        return Prefix(self.base.model, self._header, False)

    def _read(self, context: str) -> Prefix:
        prefix = kv_cache.prefill(self.base.model, self.encode(context), self._header)
        return Prefix(self.base.model, prefix, True)

    @contextmanager
    def prefilled(self, context: str) -> Iterator[None]:
        self._check(Request("", context=context), [])
        with self._lock:
            self._texts.use(context, lambda: self._read(context), keep=False)
        try:
            yield
        finally:
            with self._lock:
                self._texts.free(context)

    def prefix(self, request: Request) -> kv_cache.KVPrefix | None:
        """The KV of everything in front of a request's question; None when that is nothing."""
        return self.reader(request).prefix

    def _query(self, request: Request) -> list[int]:
        base, parts = self.base, (request.question, request.follows, request.history, request.system)
        return base.chat.query(base.tokenizer, *parts)

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
        settings = [(memory_of(r), r.max_tokens, r.temperature, r.seed) for r, _ in prepared]
        for group in _groups(settings):
            yield from self._batch(prepared[group], lengths[group])

    def _batch(self, group: Sequence[tuple[Request, list[int]]], lengths: Sequence[int]) -> list[Completion]:
        """Requests with the same prefix and settings, decoded together."""
        first, room = group[0][0], self.window - max(lengths)
        with self._lock:
            started = time.perf_counter()
            probed = self._probed.get(prompt_of(first)) if len(group) == 1 else None
            self._probed.clear()  # the probes of this question are used only once
            reader = probed[0] if probed else self.reader(first)
            prefill_ms = (time.perf_counter() - started) * 1000
            max_tokens, end = min(first.max_tokens, room), self.base.chat.end
            settings: dict[str, Any] = {
                "temperature": first.temperature,
                "generator": torch.Generator(self.base.model.device).manual_seed(first.seed),
            }
            if probed:
                decoded = [continue_from(reader.model, probed[1], max_tokens=max_tokens, end=end, **settings)]
            else:
                queries = [query for _, query in group]
                decoded = kv_cache.decode(
                    reader.model, reader.prefix, queries, max_tokens=max_tokens, end=end, **settings
                )
            total = (time.perf_counter() - started) * 1000
        return [
            Completion(self.decode(d.ids), len(d.ids), length, prefill_ms + d.ttft_ms, total, d.stopped)
            for d, length in zip(decoded, lengths, strict=True)
        ]

    def stream(self, request: Request) -> Iterator[str | Completion]:
        query = self._query(request)
        return self._stream(request, query, self._check(request, query))

    def _stream(self, request: Request, query: list[int], length: int) -> Iterator[str | Completion]:
        """Releases the lock between tokens, so that a slow reader does not block other requests."""
        started, incremental, ids, ttft = time.perf_counter(), IncrementalText(), list[int](), 0.0
        steps, stopped = self._steps(request, query), False
        for _ in range(min(request.max_tokens, self.window - length)):
            with self._lock:
                token = next(steps)
            ttft = ttft or (time.perf_counter() - started) * 1000
            if stopped := token == self.base.chat.end:
                break
            ids.append(token)
            if piece := incremental.piece(self.decode(ids)):
                yield piece
        text = self.decode(ids)
        if piece := incremental.piece(text, last=True):
            yield piece
        total = (time.perf_counter() - started) * 1000
        yield Completion(text, len(ids), length, ttft, total, stopped)

    def _steps(self, request: Request, query: list[int]) -> Iterator[int]:
        """Yield the tokens of an answer, past its end token too."""
        settings = request.temperature, torch.Generator(self.base.model.device).manual_seed(request.seed)
        probed = self._probed.get(prompt_of(request))
        self._probed.clear()  # the probes of this question are used only once
        reader = probed[0] if probed else self.reader(request)
        if probed:
            token = int(kv_cache.choose(probed[1].logprobs[None], *settings)[0])
            yield token
            decoding = kv_cache.Decoding(reader.model, full_prefix(probed[1]), [[token]])
        else:
            decoding = kv_cache.Decoding(reader.model, reader.prefix, [query])
        while True:
            yield int(decoding.step(*settings)[0])

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.base.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def score(self, requests: Sequence[Request]) -> list[Score]:
        queries = [self._query(request) for request in requests]
        for request, query in zip(requests, queries, strict=True):
            self._check(request, query)
        questions, scores = {request.question for request in requests}, list[Score]()
        with self._lock:
            self._probed = {prompt: row for prompt, row in self._probed.items() if prompt[0] in questions}
            readers = self._prefixes.compatible(self._readers(requests))
            for group in _groups([id(reader.model) for reader in readers]):
                together = readers[group]
                rows = prefill_side_by_side(together[0].model, [r.prefix for r in together], queries[group])
                for request, reader, row in zip(requests[group], together, rows, strict=True):
                    self._probed[prompt_of(request)] = reader, row
                    scores.append(self._score(row))
        return scores

    def _readers(self, requests: Sequence[Request]) -> list[Prefix]:
        """The prefix of each request; a context that several share is prefilled once."""
        prefixes = dict[tuple[str | None, str | None], Prefix]()
        for request in requests:
            memory = memory_of(request)
            if memory not in prefixes:
                prefixes[memory] = self.reader(request)
        return [prefixes[memory_of(request)] for request in requests]

    def _score(self, row: Prefilled) -> Score:
        best = int(row.logprobs.argmax())
        return Score(
            kv_cache.entropy(row.logprobs),
            float(row.logprobs[best]),
            self.decode([best]),
            tuple(row.hidden.float().tolist()),
        )

    def likelihood(self, requests: Sequence[Request], answers: Sequence[str]) -> list[float]:
        if len(requests) != len(answers):
            raise ValueError(f"{len(requests)} requests but {len(answers)} answers")
        prepared = [
            (request, self._query(request), [*self.encode(answer), self.base.chat.end])
            for request, answer in zip(requests, answers, strict=True)
        ]
        for request, query, answer_ids in prepared:
            self._check(request, [*query, *answer_ids])
        means = list[float]()
        for group in _groups([memory_of(request) for request in requests]):
            means += self._likelihood(
                requests[group.start], [(query, ids) for _, query, ids in prepared[group]]
            )
        return means

    def _likelihood(self, request: Request, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        """Mean log-probabilities of (query ids, answer ids) after one shared prefix."""
        with self._lock, torch.no_grad():
            reader = self.reader(request)
            batch = kv_cache.AnswerBatch.of(pairs, reader.prefix, self.base.model.device)
            logprobs = kv_cache.answer_logits(reader.model, reader.prefix, batch).log_softmax(-1)
        chosen = logprobs.gather(1, batch.target[:, None])
        return [float(part.mean()) for part in chosen.split([len(answer) for _, answer in pairs])]


def _groups(keys: Sequence[object]) -> Iterator[slice]:
    """Runs of at most `MAX_BATCH` equal keys."""
    start = 0
    for at in range(1, len(keys) + 1):
        if at == len(keys) or at - start == MAX_BATCH or keys[at] != keys[start]:
            yield slice(start, at)
            start = at
