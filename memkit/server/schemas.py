"""Requests and responses of the memory API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from memkit.bank.types import one_line
from memkit.memory import MAX_CHARACTERS
from memkit.text.messages import MESSAGE_FIELDS

MAX_TITLE, MAX_QUESTION, MAX_NAMES, MAX_MESSAGES = 512, 100_000, 256, 1000
Text = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]


class Taken(BaseModel):
    """A request body; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class Given(BaseModel):
    """A response, or part of one."""

    model_config = ConfigDict(from_attributes=True)


class SpanBody(Taken):
    """Characters ``[start, end)`` of a memory's text."""

    start: int = Field(ge=0, le=MAX_CHARACTERS)
    end: int = Field(ge=1, le=MAX_CHARACTERS)


def _iso(value: object) -> object:
    """A time must be a text: pydantic reads a number as seconds since 1970."""
    try:
        float(value)  # type: ignore[arg-type] # of any type
    except (TypeError, ValueError):
        return value
    raise ValueError("must be a time such as 2026-05-02T08:00:00Z")


When = Annotated[datetime | None, BeforeValidator(_iso)]


class MessageBody(Taken):
    """A message. Only the text of its content is used; other fields of chat APIs are ignored."""

    role: str = Field(min_length=1, max_length=64, examples=["user"])
    content: Annotated[str, Field(max_length=MAX_CHARACTERS)] | list[Any] | None
    when: When = None

    @model_validator(mode="before")
    @classmethod
    def _without_the_rest(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {
            name: value
            for name, value in given.items()
            if name in cls.model_fields or name not in MESSAGE_FIELDS
        }


class RememberBody(Taken):
    """A document (``text`` with a ``title``), or entries of a running memory: ``messages``, or a ``text``
    with the name of the ``memory``."""

    text: Text | None = Field(default=None, examples=["Simsem lives in Lasces."])
    messages: list[MessageBody] | None = Field(default=None, min_length=1, max_length=MAX_MESSAGES)
    title: str = Field(default="", max_length=MAX_TITLE)
    memory: str | None = Field(default=None, description="Add to the running memory of this name.")
    when: When = Field(default=None, description="When it was said. For running memories only.")
    key: str | None = Field(default=None, description="Makes repetition harmless. For running memories only.")
    compile: bool = Field(default=True, description="Compile it in the background; false leaves it as text.")

    @field_validator("title")
    @classmethod
    def _on_one_line(cls, title: str) -> str:
        if not one_line(title):
            raise ValueError("a title is one line without control characters")
        return title

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.text is None) == (self.messages is None):
            raise ValueError("give a text or messages, and not both")
        if (self.memory or self.messages) and self.title:
            raise ValueError("a running memory has a name, not a title: leave `title` out")
        if self.text is not None and self.memory is None and (self.when or self.key):
            raise ValueError("when and key belong to a running memory: name one as memory")
        return self


class Part(BaseModel):
    """Part of a message's content."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(max_length=64)
    text: str | None = Field(default=None, max_length=MAX_QUESTION)


class ChatMessage(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None


class EarlierMessage(BaseModel):
    """An earlier message. Its text is used; results of tools are not."""

    model_config = ConfigDict(extra="allow")

    role: str = Field(max_length=64, examples=["user"])
    content: str | list[Any] | None = None


class AskBody(Taken):
    """A question. ``within`` restricts it to one memory, ``gate`` replaces the server's gate."""

    question: str = Field(min_length=1, max_length=MAX_QUESTION, examples=["Where does Simsem live?"])
    max_tokens: int = Field(default=64, ge=1, le=100_000)
    temperature: float = Field(default=0.0, ge=0.0, le=10.0)
    seed: int = Field(default=0, ge=0, lt=2**63)
    history: list[tuple[str, str] | EarlierMessage] = Field(
        default_factory=list,
        max_length=MAX_MESSAGES,
        description="Earlier messages, or pairs of question and answer, the latest last.",
    )
    within: str | None = Field(default=None, description="The id of the one memory that may be used.")
    gate: str | None = Field(
        default=None, max_length=256, description="auto, rule, entropy, learned or a registered gate."
    )


class ForgetBody(Taken):
    """The part of a memory to forget: ``spans`` of its text, or every occurrence of ``matching``."""

    spans: list[SpanBody] = Field(default_factory=list, max_length=1000)
    matching: str | None = Field(default=None, min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if bool(self.spans) == (self.matching is not None):
            raise ValueError("give spans, or a text that matches, and not both")
        return self


class RollbackBody(Taken):
    """The version to answer from."""

    version: int = Field(ge=1)


class PinBody(Taken):
    """Whether to keep answering from the current version, whatever is compiled meanwhile."""

    pinned: bool = True


class RecompileBody(Taken):
    """The scope of a recompilation: one user or all, at most ``limit`` memories, within ``budget``
    seconds."""

    user: str | None = Field(default=None, description="One user. Default: all users of the key's tenant.")
    limit: int | None = Field(default=None, ge=1, le=1_000_000)
    budget: float | None = Field(default=None, gt=0, le=7 * 86400, description="Seconds.")
    retry: bool = Field(default=False, description="Include memories that failed and have not changed.")
    always: bool = Field(default=False, description="Include memories that are better left as text.")


class MemoryOut(Given):
    """One memory."""

    id: str
    title: str
    name: str | None = Field(description="The name of a running memory.")
    status: Literal["text", "compiled", "failed"]
    version: int = Field(description="Version of its artifact; 0 without one.")
    pinned: bool
    compiler: str | None
    characters: int
    artifact_id: str | None
    artifact_bytes: int | None
    error: str | None = Field(description="Why the latest compilation failed.")
    created: datetime
    changed: datetime | None
    entries: int
    behind: int = Field(description="Entries newer than the artifact.")
    asked: int = Field(description="Questions that it answered.")
    last_asked: datetime | None


class MemoriesOut(Given):
    """A user's memories, oldest first."""

    user: str
    memories: list[MemoryOut]


class RememberedOut(Given):
    """The stored memory, and the id of its compilation, if one is queued."""

    memory: MemoryOut
    job: str | None


class EntryOut(Given):
    """An entry of a running memory, at characters ``[start, end)`` of its text."""

    number: int
    speaker: str
    said: datetime
    start: int
    end: int
    compiled: bool


class SourceOut(Given):
    """A memory's source text."""

    id: str
    title: str
    digest: str = Field(description="SHA-256 of the text.")
    text: str
    entries: list[EntryOut]


class VersionOut(Given):
    """One version of a memory's artifact."""

    version: int
    current: bool
    artifact_id: str
    nbytes: int
    compiler: str
    created: datetime
    through: int | None = Field(description="Number of the last entry that it covers.")
    since: datetime | None
    seconds: float | None
    flops: float | None


class HistoryOut(Given):
    """The stored versions, oldest first."""

    id: str
    pinned: bool
    versions: list[VersionOut]


class DifferenceOut(Given):
    """The entries that differ between two versions, and both versions' admission figures."""

    older: int
    newer: int
    added: list[str]
    removed: list[str]
    figures: dict[str, Annotated[list[float | None], Field(min_length=2, max_length=2)]]  # older, newer


class ReceiptOut(Given):
    """What was removed, without content. ``left`` is the id of the rest of the memory, if any."""

    memory_id: str
    artifacts_removed: int
    chunks_removed: int
    left: str | None


class ForgottenOut(Given):
    """Receipts of everything that was forgotten."""

    receipts: list[ReceiptOut]


class AnswerOut(Given):
    """An answer, with the trace that explains it."""

    text: str
    route: Literal["latent", "text", "none"]
    user: str
    trace: dict[str, Any] = Field(
        description="Candidates with scores, the gate's decision, reason and margin, spans, tokens and times."
    )


class TaskOut(Given):
    """A memory that is due, the reason, and its estimated cost."""

    user: str
    memory_id: str
    reason: str
    tokens: int
    seconds: float | None
    flops: float | None
    nbytes: float | None


class SkippedOut(Given):
    """A memory that changed and is not compiled, and why."""

    user: str
    memory_id: str
    reason: str


class PlanOut(Given):
    """The plan of a recompilation."""

    tasks: list[TaskOut]
    skipped: list[SkippedOut]
    unchanged: int
    seconds: float


class ProgressOut(Given):
    """Progress of the current compilation; the loss is in nats."""

    user: str
    memory_id: str
    phase: str
    step: int
    steps: int
    loss: float | None


class OutcomeOut(Given):
    """The outcome of one memory's compilation."""

    user: str
    memory_id: str
    status: str
    reason: str
    version: int
    seconds: float
    nbytes: int


class JobOut(Given):
    """A compilation or recompilation: waiting, running or finished."""

    id: str
    kind: Literal["compile", "recompile"]
    state: Literal["waiting", "running", "done", "failed", "stopped"]
    created: datetime
    started: datetime | None
    ended: datetime | None
    error: str | None
    total: int
    now: ProgressOut | None
    outcomes: list[OutcomeOut]


class JobsOut(Given):
    """The tenant's jobs, newest first."""

    jobs: list[JobOut]


class ErrorDetail(Given):
    """What went wrong, and what to do about it."""

    message: str
    type: str
    param: str | None
    code: str
    request_id: str


class ErrorOut(Given):
    """The shape of every error."""

    error: ErrorDetail
