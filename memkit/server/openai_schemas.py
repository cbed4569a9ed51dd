"""OpenAI's requests and responses. Request fields that have no effect here are ignored and listed."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from memkit.server.schemas import MAX_MESSAGES, MAX_QUESTION, ChatMessage

Stop = str | list[str] | None
_IMPOSSIBLE = {
    "tools": "the model here calls no tools: leave out `tools`, or let an upstream answer",
    "functions": "the model here calls no functions: leave out `functions`",
    "tool_choice": "the model here calls no tools: leave out `tool_choice`",
    "function_call": "the model here calls no functions: leave out `function_call`",
    "response_format": "the model here answers in plain text: leave out `response_format`",
    "logprobs": "log-probabilities are not given here: leave out `logprobs`",
    "n": "only one answer per request is supported: leave out `n`, and send several requests",
    "best_of": "only one answer per request is supported: leave out `best_of`",
    "echo": "the prompt is not repeated here: leave out `echo`",
    "suffix": "text is not inserted here: leave out `suffix`",
    "audio": "the model here answers in text: leave out `audio`",
    "modalities": "the model here answers in text: leave out `modalities`",
}
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logprobs": (False, 0),
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "modalities": (["text"],),
}


def _extra(body: BaseModel) -> list[str]:
    """Names of fields that the body does not define."""
    return sorted(str(name)[:64] for name in body.model_extra or {})[:32]


class StreamOptions(BaseModel):
    """Whether a last chunk reports the usage."""

    model_config = ConfigDict(extra="allow")

    include_usage: bool | None = False


class Common(BaseModel):
    """Fields of both kinds of completions."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(max_length=512, examples=["nano"])
    user: str | None = Field(
        default=None,
        description="The user of the key's tenant whose memories are used. X-Memkit-User takes precedence.",
    )
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=10_000_000)
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stop = None

    @field_validator("stop")
    @classmethod
    def _few(cls, stop: Stop) -> Stop:
        words = [stop] if isinstance(stop, str) else stop or []
        if len(words) > 4 or any(not 1 <= len(word) <= 256 for word in words):
            raise ValueError("at most 4 texts of 1 to 256 characters")
        return stop

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    def ignored(self) -> list[str]:
        """Names of the given fields that have no effect."""
        return _extra(self)

    def impossible(self) -> tuple[str, str] | None:
        """A field that asks for something unsupported, and what to do instead; None if there is none."""
        given = self.model_extra or {}
        for name, advice in _IMPOSSIBLE.items():
            value = given.get(name)
            if value is not None and value not in _HARMLESS.get(name, ()):
                return name, advice
        return None


class ChatBody(Common):
    """A conversation; the last message is the question."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=10_000_000)


class CompletionBody(Common):
    """A prompt, answered like a question."""

    prompt: str | list[str] = Field(max_length=MAX_QUESTION)

    @field_validator("prompt")
    @classmethod
    def _one(cls, prompt: str | list[str], info: ValidationInfo) -> str | list[str]:
        if isinstance(prompt, list) and len(prompt) != 1:
            raise ValueError("one prompt is answered at a time")
        return prompt


class EmbeddingsBody(BaseModel):
    """Texts to embed. Arrays of tokens, which OpenAI allows, are refused."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(max_length=512, examples=["lexical:2048"])
    input: str | list[str] | list[int] | list[list[int]] = Field(examples=["Simsem lives in Lasces."])
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: int | None = Field(
        default=None, description="The vectors' own dimension; any other is refused."
    )
    input_type: Literal["passage", "query"] | None = Field(
        default="passage", description="Whether the texts are passages or questions."
    )

    def ignored(self) -> list[str]:
        """Names of the given fields that have no effect."""
        return _extra(self)


class Embedding(BaseModel):
    """The vector of one text: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(BaseModel):
    """Tokens of the texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsOut(BaseModel):
    """OpenAI's answer; `memkit` lists the request fields that have no effect."""

    object: Literal["list"] = "list"
    model: str
    data: list[Embedding]
    usage: EmbeddingsUsage
    memkit: dict[str, list[str]]


class Usage(BaseModel):
    """Token counts. Those of the prompt include the memory's positions."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Used(BaseModel):
    """What an answer is based on: memkit's own field in OpenAI's answers."""

    user: str = Field(description="The user whose memories were used; empty: the tenant's own.")
    route: Literal["latent", "text", "none"] = Field(
        description="From an artifact, from the text, or from neither."
    )
    reason: str = Field(description="Why this route was chosen.")
    gate: str
    calibrated: bool
    margin: float | None = Field(description="Distance to the gate's threshold.")
    memory_id: str | None
    artifact_id: str | None
    version: int | None = Field(description="Version of the artifact.")
    spans: list[dict[str, int]] = Field(description="Characters of the memory's source that were used.")
    route_ms: float | None = None
    ttft_ms: float | None = None
    total_ms: float | None = None
    notes: list[str]
    ignored: list[str] = Field(description="Request fields that have no effect.")


class ChatOut(BaseModel):
    """OpenAI's answer with memkit's field."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: str
    created: int
    model: str
    choices: list[dict[str, Any]]
    usage: Usage | None = None
    memkit: Used


class Model(BaseModel):
    """The model that answers, or the embedder."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "memkit"


class Models(BaseModel):
    """The two models: the one that answers, and the embedder."""

    object: Literal["list"] = "list"
    data: list[Model]
