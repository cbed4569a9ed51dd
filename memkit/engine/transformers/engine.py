"""The embedded engine: transformers, in this process."""

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
from memkit.engine.transformers.probe import Prefilled, behind, continue_from, prefill_side_by_side
from memkit.errors import ContextTooLongError, EngineError
from memkit.models.chat import text_ids
from memkit.models.loading import LoadedModel, load

MAX_BATCH = 16  # rows that are decoded together
Prompt = tuple[str, str | None, str | None, tuple[tuple[str, str], ...], str]


def prompt_of(request: Request) -> Prompt:
    """What the model reads of a request: question, artifact, context, history, instructions."""
    artifact_id = request.handle.artifact_id if request.handle else None
    return request.question, artifact_id, request.context, request.history, request.system


def memory_of(request: Request) -> tuple[str | None, str | None]:
    """What stands in front of a request's question: artifact, context."""
    return prompt_of(request)[1:3]


class TransformersEngine:
    """Answers with a frozen `transformers` model; the header is read once, artifacts stay attached.

    An adapter is attached as a copy of the model that shares its weights, so requests with and without
    it never meet.

    Calls from several threads are served one after the other.
    """

    def __init__(self, model: LoadedModel | str = "nano") -> None:
        self.base = load(model) if isinstance(model, str) else model
        self._lock = threading.RLock()
        self._reading = Prefixes(self.base)
        self._header = self._reading.header
        self._attached = ArtifactCache[Prefix](self._dropped)
        self._probed: dict[Prompt, tuple[Prefix, Prefilled]] = {}  # of the last question, to be gone on from

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
        """This engine: whatever it keeps is named by an artifact's id or by the text itself."""
        return self

    # -- artifacts ------------------------------------------------------------------------------
    def attach(self, artifact: Artifact) -> Handle:
        artifact.require(self.fingerprint)
        with self._lock:
            self._attached.pin(artifact.id, lambda: self._reading.of(artifact))
        return Handle(artifact.id, artifact.manifest.tokens)

    def detach(self, handle: Handle) -> None:
        with self._lock:
            self._attached.unpin(handle.artifact_id)

    @contextmanager
    def attached(self, artifact: Artifact, keep: bool = True) -> Iterator[Handle]:
        artifact.require(self.fingerprint)
        with self._lock:
            self._attached.use(artifact.id, lambda: self._reading.of(artifact), keep)
        try:
            yield Handle(artifact.id, artifact.manifest.tokens)
        finally:
            with self._lock:
                self._attached.free(artifact.id)

    @property
    def holds(self) -> list[str]:
        """Ids of the artifacts that are ready."""
        return list(self._attached)

    def discard(self, artifact_id: str) -> None:
        with self._lock:
            self._attached.discard(artifact_id)

    def _dropped(self, artifact_id: str, reader: Prefix) -> None:
        self._probed = {prompt: known for prompt, known in self._probed.items() if prompt[1] != artifact_id}

    # -- requests -------------------------------------------------------------------------------
    def count_tokens(self, text: str) -> int:
        return len(self.encode(text))

    def encode(self, text: str) -> list[int]:
        return text_ids(self.base.tokenizer, text)

    def reader(self, request: Request) -> Prefix:
        """The model that reads a request's question, and what stands in front of it."""
        if request.handle is not None:
            found = self._attached.get(request.handle.artifact_id)
            if found is None:
                raise EngineError(f"artifact {request.handle.artifact_id[:12]} is not attached")
            return found
        if request.context is not None:
            prefix = kv_cache.prefill(self.base.model, self.encode(request.context), self._header)
            return Prefix(self.base.model, prefix, True)
        return Prefix(self.base.model, self._header, False)

    def prefix(self, request: Request) -> kv_cache.KVCache | None:
        """KV of everything in front of a request's question; None when that is nothing."""
        return self.reader(request).prefix

    def _query(self, request: Request) -> list[int]:
        base, asked = self.base, (request.question, request.follows, request.history, request.system)
        return base.chat.query(base.tokenizer, *asked)

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
            self._probed.clear()  # the question is being answered
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
        """The lock is free between two tokens: others go on while somebody reads slowly."""
        started, spoken, ids, ttft = time.perf_counter(), IncrementalText(), list[int](), 0.0
        steps, stopped = self._steps(request, query), False
        for _ in range(min(request.max_tokens, self.window - length)):
            with self._lock:
                token = next(steps)
            ttft = ttft or (time.perf_counter() - started) * 1000
            if stopped := token == self.base.chat.end:
                break
            ids.append(token)
            if piece := spoken.more(self.decode(ids)):
                yield piece
        text = self.decode(ids)
        if piece := spoken.more(text, last=True):
            yield piece
        total = (time.perf_counter() - started) * 1000
        yield Completion(text, len(ids), length, ttft, total, stopped)

    def _steps(self, request: Request, query: list[int]) -> Iterator[int]:
        """The tokens of an answer, without end."""
        settings = request.temperature, torch.Generator(self.base.model.device).manual_seed(request.seed)
        probed = self._probed.get(prompt_of(request))
        self._probed.clear()  # the question is being answered
        reader = probed[0] if probed else self.reader(request)
        if probed:
            token = int(kv_cache.choose(probed[1].logprobs[None], *settings)[0])
            yield token
            decoding = kv_cache.Decoding(reader.model, behind(probed[1]), [[token]])
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
        asked, scores = {request.question for request in requests}, list[Score]()
        with self._lock:
            self._probed = {prompt: known for prompt, known in self._probed.items() if prompt[0] in asked}
            readers = self._readers(requests)
            for group in _groups([id(reader.model) for reader in readers]):
                together = readers[group]
                rows = prefill_side_by_side(together[0].model, [r.prefix for r in together], queries[group])
                for request, reader, row in zip(requests[group], together, rows, strict=True):
                    self._probed[prompt_of(request)] = reader, row
                    scores.append(self._score(row))
        return scores

    def _readers(self, requests: Sequence[Request]) -> list[Prefix]:
        """The reader of each request; a context that several have is read once."""
        made = dict[tuple[str | None, str | None], Prefix]()
        for request in requests:
            memory = memory_of(request)
            if memory not in made:
                made[memory] = self.reader(request)
        return [made[memory_of(request)] for request in requests]

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
        for request, query, said in prepared:
            self._check(request, [*query, *said])
        means = list[float]()
        for group in _groups([memory_of(request) for request in requests]):
            means += self._likelihood(requests[group.start], [(q, said) for _, q, said in prepared[group]])
        return means

    def _likelihood(self, request: Request, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        """Mean log-probabilities of answers behind one shared prefix."""
        with self._lock, torch.no_grad():
            reader = self.reader(request)
            batch = kv_cache.AnswerBatch.of(pairs, reader.tokens, self.base.model.device)
            logprobs = kv_cache.answer_logits(reader.model, reader.prefix, batch).log_softmax(-1)
        given = logprobs.gather(1, batch.target[:, None])
        return [float(part.mean()) for part in given.split([len(said) for _, said in pairs])]


def _groups(keys: Sequence[object]) -> Iterator[slice]:
    """Runs of at most `MAX_BATCH` equal keys."""
    start = 0
    for at in range(1, len(keys) + 1):
        if at == len(keys) or at - start == MAX_BATCH or keys[at] != keys[start]:
            yield slice(start, at)
            start = at
