"""Convert requests to SGLang's payloads, and its responses to answers and scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from memkit.engine.base import Request, Score
from memkit.engine.entropy import entropy_of_top
from memkit.engine.sglang.plugin.protocol import PLACEHOLDER, Claim
from memkit.errors import EngineError
from memkit.models.chat import text_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from memkit.models.chat import ChatFormat


@dataclass(frozen=True)
class Prompt:
    """A prompt's token ``ids``, with the artifact's ``key`` ("" for none) and the tenant's cache ``salt``.

    The first ``cached`` tokens must come from the artifact; ``adapter`` is the claim to a LoRA artifact.
    """

    ids: tuple[int, ...]
    key: str
    salt: str
    cached: int = 0
    adapter: Claim | None = None

    def payload(self, more: Sequence[int] = ()) -> dict[str, Any]:
        """The fields that refer to prompt and artifact; the ids ``more`` follow the prompt."""
        return {
            "input_ids": [*self.ids, *more],
            "extra_key": self.key,
            "cache_salt": self.salt,
            "lora_path": self.adapter and self.adapter.adapter,
        }


class Prompts:
    """Turns requests into prompts, and token ids into text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat: ChatFormat) -> None:
        self.tokenizer, self.chat = tokenizer, chat

    def encode(self, text: str) -> list[int]:
        return text_ids(self.tokenizer, text)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def of(self, request: Request, claim: Claim | None, salt: str) -> Prompt:
        """The prompt of a request; ``claim`` is its artifact's, if it has one."""
        parts = request.question, request.follows, request.history, request.system
        query = self.chat.query(self.tokenizer, *parts)
        header = list(self.chat.header)
        if request.context is not None:
            return Prompt((*header, *self.encode(request.context), *query), "", salt)
        if request.handle is None or claim is None:
            return Prompt((*header, *query), "", salt)
        if claim.kind == "lora":
            return Prompt((*header, *query), claim.key, salt, adapter=claim)
        ids = (*header, *[PLACEHOLDER] * request.handle.tokens, *query)
        cached = len(header) + request.handle.tokens if claim.kind == "kv" else 0
        return Prompt(ids, claim.key, salt, cached)


@dataclass
class StreamedResponse:
    """A partial answer of at most ``room`` tokens. It ends before the token ``end``."""

    room: int
    end: int
    ids: list[int] = field(default_factory=list)
    done: bool = False
    stopped: bool = False

    def take(self, event: Mapping[str, Any], before: Sequence[int]) -> None:
        """Process one event, which holds all tokens of this server so far; they follow those ``before``
        it."""
        ids = [int(token) for token in event["output_ids"]]
        reason = event["meta_info"].get("finish_reason")
        if reason is not None:
            self.done, self.stopped = True, reason.get("type") == "stop"
            if ids and ids[-1] == self.end:
                ids.pop()
        if len(ids) + len(before) >= len(self.ids):
            self.ids = [*before, *ids]


def require_cached(answer: Mapping[str, Any], prompt: Prompt) -> None:
    """Raise `EngineError` for an answer that was computed without the artifact."""
    cached = int(answer["meta_info"].get("cached_tokens") or 0)
    if cached < prompt.cached:
        raise EngineError(
            f"the server had {cached} of the artifact's {prompt.cached} positions, so that its answer is "
            "refused: it runs without memkit's plugin, or with another version; see memkit doctor"
        )


def score_of(answer: Mapping[str, Any], vocabulary: int, decode: Callable[[Sequence[int]], str]) -> Score:
    """The `Score` of an answer of one token. The entropy is an estimate; see `entropy_of_top`."""
    info = answer["meta_info"]
    top = [(float(logprob), int(token)) for logprob, token, *_ in info["output_top_logprobs"][0]]
    entropy, _ = entropy_of_top([logprob for logprob, _ in top], vocabulary)
    best, token = max(top)
    return Score(entropy, best, decode([token]), _hidden(info.get("hidden_states")))


def _hidden(states: Any) -> tuple[float, ...]:
    """The state at the prompt's last position; SGLang returns ``[token, hidden]`` or ``[hidden]``."""
    if not states:
        return ()
    first = states[0]
    last = first[-1] if first and isinstance(first[0], list) else first
    return tuple(float(value) for value in last)


def mean_logprob(answer: Mapping[str, Any], answer_ids: Sequence[int]) -> float:
    """The mean log-probability of ``answer_ids``, the last tokens of a prompt."""
    logprobs = answer["meta_info"]["input_token_logprobs"][-len(answer_ids) :]
    if [int(token) for _, token, *_ in logprobs] != list(answer_ids):
        raise EngineError("the server returned the log-probabilities of other tokens than were asked for")
    return sum(float(logprob) for logprob, *_ in logprobs) / len(answer_ids)
