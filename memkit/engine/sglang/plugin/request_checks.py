"""Checks that run before SGLang processes a request.

Requests are SGLang's ``GenerateReqInput`` or ``EmbeddingReqInput`` before normalization: one prompt, or a
list of them, each with its own ``extra_key``, ``cache_salt`` and ``lora_path``.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memkit.engine.sglang.plugin.artifact_files import Artifacts
from memkit.engine.sglang.plugin.header import Header
from memkit.engine.sglang.plugin.protocol import ADAPTER, PLACEHOLDER, SCHEME, Claim, salt
from memkit.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor

    from memkit.artifact.format import Artifact

OVERRIDES = "positional_embed_overrides"
# Other ways to give or change a prompt, which a request with an artifact must not use.
_FOREIGN = ("text", "input_embeds", "image_data", "video_data", "audio_data", "session_params", "kv_hints")


@dataclass(frozen=True)
class Overrides:
    """Memory embeddings ``embeds`` ``[token, hidden]`` that replace a prompt's tokens from ``start`` on."""

    embeds: Tensor
    start: int


def check_harmless(request: Any, trusted: type, vocabulary: int) -> None:
    """Raise `EngineError` for fields that would crash SGLang's scheduler, and with it all requests.

    ``trusted`` is the class that SGLang itself puts into the override field; ``vocabulary`` is the size of
    the model's vocabulary.
    """
    given = getattr(request, OVERRIDES, None)
    for item in given if isinstance(given, list) else [given]:
        if item is not None and not isinstance(item, trusted):
            raise EngineError(f"{OVERRIDES} is not accepted from clients")
    for count in _each(getattr(request, "top_logprobs_num", None)):
        if count is not None and not 0 <= count <= vocabulary:
            raise EngineError(f"top_logprobs_num must be from 0 to {vocabulary}, the model's tokens")
    tokens = _flat([getattr(request, name, None) for name in ("token_ids_logprob", "input_ids")])
    tokens += [key for each in _each(getattr(request, "sampling_params", None)) for key in _biased(each)]
    if any(not 0 <= token < vocabulary for token in tokens):
        raise EngineError(f"token ids must be from 0 to {vocabulary - 1}, the model's last token")


def _flat(value: Any) -> list[int]:
    if isinstance(value, list):
        return [token for each in value for token in _flat(each)]
    return [] if value is None else [value]


def _biased(sampling: Any) -> list[int]:
    """The token ids in the ``logit_bias`` of sampling parameters."""
    if not isinstance(sampling, dict):
        return []
    try:
        return [int(key) for key in sampling.get("logit_bias") or ()]
    except (TypeError, ValueError) as error:
        raise EngineError("logit_bias names no tokens") from error


class RequestChecks:
    """Checks requests with artifacts on one server, whose page size is ``page`` tokens."""

    def __init__(self, prefix: Header, artifacts: Artifacts, secret: bytes, page: int) -> None:
        self.prefix, self.artifacts, self.page = prefix, artifacts, page
        self._secret = secret

    def check(self, request: Any) -> list[Overrides | None]:
        """Check a request; returns the embeddings to insert into each of its prompts, [] without an artifact.

        Raises `EngineError` for a request that must not run, `ArtifactError` for an artifact that cannot be
        used.
        """
        keys = _each(getattr(request, "extra_key", None))
        adapters = _each(getattr(request, "lora_path", None))
        if not any(_ours(key, SCHEME) for key in keys) and not any(_ours(a, ADAPTER) for a in adapters):
            return []
        prompts = _prompts(request)
        fields = [
            _spread(getattr(request, name, None), len(prompts), name)
            for name in ("extra_key", "cache_salt", "lora_path", "return_logprob", "logprob_start_len")
        ]
        return [self._admit(prompt, *row) for prompt, *row in zip(prompts, *fields, strict=True)]

    def _admit(
        self, ids: Sequence[int], key: Any, cache_salt: Any, adapter: Any, logprobs: Any, start: Any
    ) -> Overrides | None:
        claim = Claim.parse(key) if key is None or isinstance(key, str) else _refuse("extra_key is not text")
        if claim is None:
            if _ours(adapter, ADAPTER):
                _refuse("the LoRA belongs to an artifact, which extra_key must name")
            return None
        self.authorize(claim, cache_salt)
        artifact = self.artifacts.get(claim, self.prefix.fingerprint, verify=claim.kind == "embeds")
        if claim.kind == "lora":
            if adapter != claim.adapter:
                _refuse("extra_key and lora_path name different artifacts")
            return None
        if adapter:
            _refuse("an artifact of the kind kv or embeds takes no LoRA")
        tokens = self._check_prompt(ids, artifact)
        if logprobs and start not in (None, -1) and start < tokens:
            _refuse(f"logprob_start_len must be -1 or at least {tokens}, where the artifact ends")
        if claim.kind == "embeds":
            return Overrides(self._embeddings(artifact), len(self.prefix.ids))
        if tokens % self.page:
            _refuse(
                f"header and artifact take {tokens} positions, no multiple of this server's page size "
                f"{self.page}: start it with --page-size 1, or compile with --option multiple={self.page}"
            )
        return None

    def authorize(self, claim: Claim, cache_salt: Any) -> None:
        """Raise `EngineError` unless the salt is the claim's tenant's."""
        if not hmac.compare_digest(str(cache_salt).encode(), salt(self._secret, claim.tenant).encode()):
            _refuse("cache_salt is not that of the artifact's tenant")

    def _check_prompt(self, ids: Sequence[int], artifact: Artifact) -> int:
        """The number of positions of header and artifact, which the prompt must start with."""
        header = list(self.prefix.ids)
        tokens = len(header) + artifact.manifest.tokens
        wanted = [*header, *[PLACEHOLDER] * artifact.manifest.tokens]
        if list(ids[:tokens]) != wanted:
            _refuse("the prompt does not start with the header and the artifact's placeholders")
        if len(ids) <= tokens:
            _refuse("no token follows the artifact")
        return tokens

    def _embeddings(self, artifact: Artifact) -> Tensor:
        from memkit.engine.transformers.prefixes import embeddings_of

        return embeddings_of(artifact, self.prefix.hidden)


def _refuse(reason: str) -> Any:
    raise EngineError(reason)


def _each(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _ours(value: Any, start: str) -> bool:
    return isinstance(value, str) and value.startswith(start)


def _prompts(request: Any) -> list[Sequence[int]]:
    """The prompts' token ids. Raises `EngineError` for prompts in another form."""
    for name in _FOREIGN:
        if getattr(request, name, None) is not None:
            _refuse(f"a request that names an artifact gives its prompt as input_ids, without {name}")
    sampling = _each(getattr(request, "sampling_params", None))
    if any(isinstance(each, dict) and each.get("n", 1) != 1 for each in sampling):
        _refuse("a request that names an artifact is answered once: n must be 1")
    ids: Any = getattr(request, "input_ids", None)
    if not isinstance(ids, list) or not ids:
        _refuse("a request that names an artifact gives its prompt as input_ids")
    return ids if isinstance(ids[0], list) else [ids]


def _spread(value: Any, count: int, name: str) -> list[Any]:
    """One value for each prompt."""
    if not isinstance(value, list):
        return [value] * count
    if len(value) != count:
        _refuse(f"there are {count} prompts, but {len(value)} of {name}")
    return value


def override_field(overrides: list[Overrides | None], make: Callable[..., Any], single: bool) -> Any:
    """The value of the override field; ``make(embeds=, positions=)`` creates SGLang's objects."""
    values = [
        each and make(embeds=each.embeds, positions=list(range(each.start, each.start + len(each.embeds))))
        for each in overrides
    ]
    if not any(each is not None for each in values):
        return None
    return values[0] if single else values
