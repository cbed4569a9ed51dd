"""The SGLang engine: a client of one or many servers that run the same frozen model.

It sends token ids to ``/generate`` and refers to artifacts by their ids: the servers load them from the bank
(`memkit.engine.sglang.plugin`). An answer that a server computed without the artifact is rejected.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from copy import copy
from typing import Any

from memkit.artifact.format import Artifact
from memkit.engine.artifact_cache import ArtifactCache
from memkit.engine.base import Completion, Handle, Request, Score
from memkit.engine.sglang.health import checked_info
from memkit.engine.sglang.lora_cache import LoraCache
from memkit.engine.sglang.plugin.protocol import Claim, salt, tenant_folder
from memkit.engine.sglang.requests import (
    Prompt,
    Prompts,
    StreamedResponse,
    mean_logprob,
    require_cached,
    score_of,
)
from memkit.engine.sglang.workers import SGLangConfig, Worker, WorkerError, Workers
from memkit.engine.streaming import IncrementalText
from memkit.engine.transformers import kv_cache
from memkit.errors import ContextTooLongError, EngineError
from memkit.models.loading import load_tokenizer, tokenizer_digest

UNLOADED = "never been loaded"  # part of SGLang's error for a LoRA that was lost in a restart


class SGLangEngine:
    """Answers through SGLang servers that share a bank's artifacts.

    ``config`` holds the servers' URLs, or more settings. ``model`` is a name for
    `memkit.models.loading.load_tokenizer`. ``secret`` is the bank's, from
    `memkit.engine.sglang.plugin.header.read_secret`; it separates the tenants' caches. With a ``fingerprint``
    only servers of that base model are used; without one all servers must run the same model.

    Without `for_tenant`, requests without an artifact use a cache of this engine's own. Thread-safe.
    """

    def __init__(
        self,
        config: SGLangConfig | str | Sequence[str],
        model: str = "nano",
        *,
        secret: bytes,
        fingerprint: str | None = None,
    ) -> None:
        if not isinstance(config, SGLangConfig):
            config = SGLangConfig((config,) if isinstance(config, str) else tuple(config))
        tokenizer, chat = load_tokenizer(model)
        self.config, self._model, self._secret = config, model, secret
        self._prompts = Prompts(tokenizer, chat)
        self._vocabulary = tokenizer_digest(tokenizer)
        self._expected = fingerprint
        self._workers = Workers(config, self._check)
        self._loras = LoraCache(self._workers)
        self._attached = ArtifactCache[Claim](self._dropped)
        self._lock = threading.Lock()
        self._tenant: str | None = None
        self._salt = secrets.token_hex(16)

    def for_tenant(self, tenant: str) -> SGLangEngine:
        """This engine on behalf of a tenant: it attaches only that tenant's artifacts."""
        engine = copy(self)
        engine._tenant = tenant_folder(tenant)
        engine._salt = salt(self._secret, engine._tenant)
        return engine

    # -- the servers ----------------------------------------------------------------------------
    def _check(self, worker: Worker) -> Mapping[str, Any]:
        """A server's description of itself. Raises `EngineError` for one that must not be used."""
        info = checked_info(self._workers, worker, self.config.wait)
        with self._lock:
            self._expected = self._expected or str(info["fingerprint"])
            if info["fingerprint"] != self._expected:
                raise EngineError(
                    f"{worker.url} runs the model {str(info['fingerprint'])[:12]} ({info['model']}, "
                    f"{info['dtype']}), {self._expected[:12]} was expected; check the URL"
                )
        if info["vocabulary"] != self._vocabulary or info["header"] != list(self._prompts.chat.header):
            raise EngineError(
                f"{worker.url} has another tokenizer than {self._model}: name its model with --model"
            )
        self._loras.forget(worker)
        return info

    def _info(self) -> Mapping[str, Any]:
        """The description of any of the servers."""
        ready_info = next((worker.info for worker in self._workers.all if worker.info), None)
        info: Mapping[str, Any] = ready_info or self._workers.run("", self._workers.ready)
        return info

    def server(self, url: str) -> Mapping[str, Any]:
        """The description of the server at one of the URLs. Raises `EngineError` when it cannot be used."""
        worker = next(worker for worker in self._workers.all if worker.url == url)
        try:
            return self._workers.ready(worker)
        except WorkerError as error:
            raise EngineError(str(error)) from error

    @property
    def fingerprint(self) -> str:
        return str(self._info()["fingerprint"])

    @property
    def model(self) -> str:
        return self._model

    @property
    def window(self) -> int:
        return int(self._info()["window"])

    def close(self) -> None:
        """Close the connections to the servers."""
        self._workers.close()

    # -- artifacts ------------------------------------------------------------------------------
    def attach(self, artifact: Artifact) -> Handle:
        """Like `Engine.attach`; the artifact must have been published in the bank that the servers read."""
        claim = self._ready(artifact)
        self._attached.pin(artifact.id, lambda: claim)
        return Handle(artifact.id, artifact.manifest.tokens)

    @contextmanager
    def attached(self, artifact: Artifact, keep: bool = True) -> Iterator[Handle]:
        claim = self._ready(artifact)
        self._attached.use(artifact.id, lambda: claim, keep)
        try:
            yield Handle(artifact.id, artifact.manifest.tokens)
        finally:
            self._attached.free(artifact.id)

    def _ready(self, artifact: Artifact) -> Claim:
        """The claim to an artifact, after a server has found it in the bank."""
        claim = self._claim(artifact)
        if artifact.id in self._attached:
            return claim
        artifact.require(self.fingerprint)
        lookup = {"extra_key": claim.key, "cache_salt": salt(self._secret, claim.tenant)}
        self._workers.run(claim.key, lambda worker: self._workers.request(worker, "/memkit/artifact", lookup))
        if claim.kind == "lora":
            self._load(claim)
        return claim

    def _claim(self, artifact: Artifact) -> Claim:
        """The claim to an artifact. Raises `EngineError` for an unsupported one, or another tenant's."""
        manifest = artifact.manifest
        tenant, metrics = tenant_folder(manifest.tenant), manifest.metrics
        if self._tenant not in (None, tenant):
            raise EngineError("the artifact is another tenant's")
        if manifest.kind == "ragged_kv":
            raise EngineError(
                "SGLang's attention needs the same number of rows in every head, without biases; compile for "
                "it with --compiler compact --option preset=capped, or lcc with form=capped"
            )
        if manifest.kind not in ("kv", "embeds", "lora"):
            raise EngineError(f"this engine attaches kv, embeds and lora artifacts, not {manifest.kind!r}")
        if metrics.get("decoder") and (manifest.kind, metrics.get("answers")) != ("kv", "base"):
            raise EngineError("the artifact is read by a trained decoder, which SGLang does not run")
        page = int(self._info()["page_size"])
        tokens = len(self._prompts.chat.header) + manifest.tokens
        if manifest.kind == "kv" and tokens % page:
            raise EngineError(
                f"header and artifact take {tokens} positions, no multiple of the server's page size {page}: "
                f"start it with --page-size 1, or compile with --option multiple={page}"
            )
        return Claim(manifest.kind, tenant, artifact.id)

    def _load(self, claim: Claim) -> None:
        """Load a LoRA on every server that responds; the others load it at their first request for it."""
        for worker in self._workers.all:
            try:
                self._workers.ready(worker)
                with self._loras.using(worker, [claim]):
                    continue
            except WorkerError:
                continue

    def detach(self, handle: Handle) -> None:
        self._attached.unpin(handle.artifact_id)

    def discard(self, artifact_id: str) -> None:
        self._attached.discard(artifact_id)

    def _dropped(self, artifact_id: str, claim: Claim) -> None:
        if claim.kind == "lora":
            self._loras.drop(claim)

    # -- requests -------------------------------------------------------------------------------
    @contextmanager
    def prefilled(self, context: str) -> Iterator[None]:
        yield  # the server caches prefixes

    def count_tokens(self, text: str) -> int:
        return len(self._prompts.encode(text))

    def _prompt(self, request: Request, more: Sequence[int] = ()) -> Prompt:
        """A request's prompt, to be followed by the ids ``more``.

        Raises `ContextTooLongError`, or `EngineError` for an artifact that is not attached.
        """
        claim = None
        if request.handle is not None:
            claim = self._attached.get(request.handle.artifact_id)
            if claim is None or self._tenant not in (None, claim.tenant):
                raise EngineError(f"artifact {request.handle.artifact_id[:12]} is not attached")
        cache_salt = self._salt if claim is None else salt(self._secret, claim.tenant)
        prompt = self._prompts.of(request, claim, cache_salt)
        if len(prompt.ids) + len(more) + 1 > self.window:
            raise ContextTooLongError(
                f"the prompt has {len(prompt.ids) + len(more)} tokens, the model reads {self.window}; "
                "shorten the question, or remember the document instead of sending it"
            )
        return prompt

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        prompts = [self._prompt(request) for request in requests]
        return self._generate(requests, prompts)

    def _generate(self, requests: Sequence[Request], prompts: Sequence[Prompt]) -> Iterator[Completion]:
        if len(requests) == 1:
            yield self._answer(requests[0], prompts[0])
            return
        limit = self.config.in_flight * len(self.config.urls)
        with ThreadPoolExecutor(max(min(len(requests), limit), 1), "memkit-sglang") as pool:
            yield from pool.map(self._answer, requests, prompts)

    def _answer(self, request: Request, prompt: Prompt) -> Completion:
        started, ttft = time.perf_counter(), 0.0
        answer = self._begin(request, prompt)
        for _ in self._generating(request, prompt, answer):
            ttft = ttft or (time.perf_counter() - started) * 1000
        return self._done(prompt, answer, started, ttft)

    def stream(self, request: Request) -> Iterator[str | Completion]:
        return self._stream(request, self._prompt(request))

    def _stream(self, request: Request, prompt: Prompt) -> Iterator[str | Completion]:
        started, incremental, ttft = time.perf_counter(), IncrementalText(), 0.0
        answer = self._begin(request, prompt)
        with closing(self._generating(request, prompt, answer)) as generating:
            for _ in generating:
                ttft = ttft or (time.perf_counter() - started) * 1000
                if piece := incremental.piece(self._prompts.decode(answer.ids)):
                    yield piece
        result = self._done(prompt, answer, started, ttft)
        if piece := incremental.piece(result.text, last=True):
            yield piece
        yield result

    def _begin(self, request: Request, prompt: Prompt) -> StreamedResponse:
        return StreamedResponse(
            min(request.max_tokens, self.window - len(prompt.ids)), self._prompts.chat.end
        )

    def _generating(
        self, request: Request, prompt: Prompt, answer: StreamedResponse
    ) -> Generator[None, None, None]:
        """Yields after each event of new tokens. If a server is lost, another continues after its tokens."""

        def start(worker: Worker) -> Iterator[None]:
            return self._generate_on(worker, request, prompt, answer)

        return self._workers.stream(prompt.key or prompt.salt, start)

    def _done(self, prompt: Prompt, answer: StreamedResponse, started: float, ttft: float) -> Completion:
        total = (time.perf_counter() - started) * 1000
        text = self._prompts.decode(answer.ids)
        return Completion(text, len(answer.ids), len(prompt.ids), ttft, total, answer.stopped)

    def _generate_on(
        self, worker: Worker, request: Request, prompt: Prompt, answer: StreamedResponse
    ) -> Iterator[None]:
        before = list(answer.ids)
        payload = {
            **prompt.payload(before),
            "stream": True,
            "sampling_params": {
                "max_new_tokens": answer.room - len(before),
                "temperature": request.temperature,
                "sampling_seed": request.seed,
                "stop_token_ids": [answer.end],
            },
        }
        if answer.room == len(before):  # the previous server was lost after the last token
            return
        with self._using(worker, [prompt]), closing(self._workers.events(worker, payload)) as events:
            for event in events:
                require_cached(event, prompt)
                answer.take(event, before)
                yield
                if answer.done:
                    return
        raise WorkerError(f"the answer of {worker.url} broke off")

    @contextmanager
    def _using(self, worker: Worker, prompts: Sequence[Prompt]) -> Iterator[None]:
        """Keeps the LoRAs of these prompts loaded on a server for the duration of the context."""
        with self._loras.using(worker, [p.adapter for p in prompts if p.adapter is not None]):
            try:
                yield
            except EngineError as error:
                if UNLOADED not in str(error):
                    raise
                self._loras.forget(worker)
                raise WorkerError(str(error)) from error

    def payload(self, request: Request) -> dict[str, Any]:
        """The fields of a request that refer to its prompt and artifact, as sent; for benchmarks."""
        return self._prompt(request).payload()

    def token_logprobs(self, request: Request) -> list[tuple[int, float]]:
        """The tokens of a greedy answer with their log-probabilities, including its end; for benchmarks."""
        prompt = self._prompt(request)
        sampling = {
            "max_new_tokens": request.max_tokens,
            "temperature": 0.0,
            "stop_token_ids": [self._prompts.chat.end],
        }
        payload = {**prompt.payload(), "sampling_params": sampling, "return_logprob": True}

        def work(worker: Worker) -> list[tuple[int, float]]:
            with self._using(worker, [prompt]):
                answer = self._workers.request(worker, "/generate", payload)
            require_cached(answer, prompt)
            logprobs = answer["meta_info"]["output_token_logprobs"]
            return [(int(token), float(logprob)) for logprob, token, *_ in logprobs]

        return self._workers.run(prompt.key or prompt.salt, work)

    def score(self, requests: Sequence[Request]) -> list[Score]:
        prompts = [self._prompt(request) for request in requests]
        if not prompts:
            return []

        def work(worker: Worker) -> list[Score]:
            limit = int(self._workers.ready(worker).get("max_loaded_loras") or len(prompts))
            too_many = sum(prompt.adapter is not None for prompt in prompts) > limit
            groups = kv_cache.chunked(prompts, limit if too_many else len(prompts))
            return [score for group in groups for score in self._scores(worker, group)]

        return self._workers.run(prompts[0].key or prompts[0].salt, work)

    def _scores(self, worker: Worker, prompts: Sequence[Prompt]) -> list[Score]:
        """The scores of prompts in one request, so that the server batches them."""
        info = self._workers.ready(worker)
        vocabulary, fields = int(info["vocabulary_size"]), [prompt.payload() for prompt in prompts]
        payload: dict[str, Any] = {name: [each.get(name) for each in fields] for name in fields[0]}
        payload |= {
            "sampling_params": {"max_new_tokens": 1, "temperature": 0.0},
            "return_logprob": True,
            "top_logprobs_num": min(self.config.top, vocabulary),
            "return_hidden_states": bool(info["hidden_states"]),
        }
        with self._using(worker, prompts):
            answers = self._workers.request(worker, "/generate", payload)
        for answer, prompt in zip(answers, prompts, strict=True):
            require_cached(answer, prompt)
        return [score_of(answer, vocabulary, self._prompts.decode) for answer in answers]

    def likelihood(self, requests: Sequence[Request], answers: Sequence[str]) -> list[float]:
        if len(requests) != len(answers):
            raise ValueError(f"{len(requests)} requests but {len(answers)} answers")
        ids = [[*self._prompts.encode(answer), self._prompts.chat.end] for answer in answers]
        prompts = [self._prompt(request, more) for request, more in zip(requests, ids, strict=True)]
        limit = self.config.in_flight * len(self.config.urls)
        with ThreadPoolExecutor(max(min(len(requests), limit), 1), "memkit-sglang") as pool:
            return list(pool.map(self._likelihood, prompts, ids))

    def _likelihood(self, prompt: Prompt, answer_ids: Sequence[int]) -> float:
        payload = {
            **prompt.payload(answer_ids),
            "sampling_params": {"max_new_tokens": 0, "temperature": 0.0},
            "return_logprob": True,
            "logprob_start_len": len(prompt.ids) - 1,
        }

        def work(worker: Worker) -> float:
            with self._using(worker, [prompt]):
                answer = self._workers.request(worker, "/generate", payload)
            require_cached(answer, prompt)
            return mean_logprob(answer, answer_ids)

        return self._workers.run(prompt.key or prompt.salt, work)
