"""What the memory API takes and gives."""

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
    """A body: what it does not know is an error."""

    model_config = ConfigDict(extra="forbid")


class Given(BaseModel):
    """A response, or a part of one."""

    model_config = ConfigDict(from_attributes=True)


class SpanBody(Taken):
    """Characters ``[start, end)`` of a memory's text."""

    start: int = Field(ge=0, le=MAX_CHARACTERS)
    end: int = Field(ge=1, le=MAX_CHARACTERS)


def _iso(value: object) -> object:
    """A time is a text: pydantic would take a number for seconds since 1970."""
    try:
        float(value)  # type: ignore[arg-type] # of any type
    except (TypeError, ValueError):
        return value
    raise ValueError("must be a time such as 2026-05-02T08:00:00Z")


When = Annotated[datetime | None, BeforeValidator(_iso)]


class MessageBody(Taken):
    """What somebody said. Of its content the text counts; what chat APIs have beside it is left out."""

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
    when: When = Field(default=None, description="When it was said; of a running memory only.")
    key: str | None = Field(default=None, description="Makes repeating harmless; of a running memory only.")
    compile: bool = Field(
        default=True, description="Compile it in the background; false leaves it on its text."
    )

    @field_validator("title")
    @classmethod
    def _on_one_line(cls, title: str) -> str:
        if not one_line(title):
            raise ValueError("a title is one line, without control characters")
        return title

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.text is None) == (self.messages is None):
            raise ValueError("give a text or messages, and not both")
        if (self.memory or self.messages) and self.title:
            raise ValueError("a running memory has a name instead of a title")
        if self.text is not None and self.memory is None and (self.when or self.key):
            raise ValueError("when and key belong to a running memory: name one as memory")
        return self


class Part(BaseModel):
    """A part of a message's content."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(max_length=64)
    text: str | None = Field(default=None, max_length=MAX_QUESTION)


class ChatMessage(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="allow")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None


class EarlierMessage(BaseModel):
    """One message before a question. Its text counts, and what tools said does not."""

    model_config = ConfigDict(extra="allow")

    role: str = Field(max_length=64, examples=["user"])
    content: str | list[Any] | None = None


class AskBody(Taken):
    """A question. ``within`` leaves one memory to choose, ``gate`` decides in place of the server's gate."""

    question: str = Field(min_length=1, max_length=MAX_QUESTION, examples=["Where does Simsem live?"])
    max_tokens: int = Field(default=64, ge=1, le=100_000)
    temperature: float = Field(default=0.0, ge=0.0, le=10.0)
    seed: int = Field(default=0, ge=0, lt=2**63)
    history: list[tuple[str, str] | EarlierMessage] = Field(
        default_factory=list,
        max_length=MAX_MESSAGES,
        description="Earlier messages, or questions with their answers; the latest last.",
    )
    within: str | None = Field(default=None, description="The id of the one memory that may be used.")
    gate: Literal["auto", "rule", "entropy", "learned"] | None = None


class ForgetBody(Taken):
    """Which characters of a memory's text to forget: ``spans``, or ``matching`` wherever it stands."""

    spans: list[SpanBody] = Field(default_factory=list, max_length=1000)
    matching: str | None = Field(default=None, min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if bool(self.spans) == (self.matching is not None):
            raise ValueError("give spans, or a text that matches, and not both")
        return self


class RollbackBody(Taken):
    """The version that is to answer."""

    version: int = Field(ge=1)


class PinBody(Taken):
    """Whether the current version is to answer whatever is compiled meanwhile."""

    pinned: bool = True


class RecompileBody(Taken):
    """How much to recompile: of one user or all, at most ``limit`` memories, for ``budget`` seconds."""

    user: str | None = Field(
        default=None, description="Of one user; without it of all users of the key's tenant."
    )
    limit: int | None = Field(default=None, ge=1, le=1_000_000)
    budget: float | None = Field(default=None, gt=0, le=7 * 86400, description="Seconds.")
    retry: bool = Field(default=False, description="Also what failed before and is the same.")
    always: bool = Field(default=False, description="Also what is better left on its text.")


class MemoryOut(Given):
    """One memory."""

    id: str
    title: str
    name: str | None = Field(description="Of a running memory.")
    status: Literal["text", "compiled", "failed"]
    version: int = Field(description="Of its artifact; 0 without one.")
    pinned: bool
    compiler: str | None
    characters: int
    artifact_id: str | None
    artifact_bytes: int | None
    error: str | None = Field(description="Why the latest compilation failed.")
    created: datetime
    changed: datetime | None
    entries: int
    behind: int = Field(description="Entries that the artifact has not seen.")
    asked: int = Field(description="Questions it answered.")
    last_asked: datetime | None


class MemoriesOut(Given):
    """A user's memories, oldest first."""

    user: str
    memories: list[MemoryOut]


class RememberedOut(Given):
    """What was remembered, and the compilation that waits, if any."""

    memory: MemoryOut
    job: str | None


class EntryOut(Given):
    """One entry of a running memory: characters ``[start, end)`` of its text."""

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
    through: int | None = Field(description="The last entry it has seen, by number.")
    since: datetime | None
    seconds: float | None
    flops: float | None


class HistoryOut(Given):
    """The versions that are kept, oldest first."""

    id: str
    pinned: bool
    versions: list[VersionOut]


class DifferenceOut(Given):
    """Entries that only one of two versions has seen, and what both showed when they were admitted."""

    older: int
    newer: int
    added: list[str]
    removed: list[str]
    figures: dict[str, tuple[float | None, float | None]]


class ReceiptOut(Given):
    """What was removed, without content; ``left`` is the id of what stays of the memory."""

    memory_id: str
    artifacts_removed: int
    chunks_removed: int
    left: str | None


class ForgottenOut(Given):
    """What was forgotten."""

    receipts: list[ReceiptOut]


class AnswerOut(Given):
    """An answer with its trace: why it is what it is."""

    text: str
    route: Literal["latent", "text", "none"]
    user: str
    trace: dict[str, Any] = Field(
        description="Candidates with scores, the gate's decision, reason and margin, spans, tokens and times."
    )


class TaskOut(Given):
    """One memory that is due, why, and about what it costs."""

    user: str
    memory_id: str
    reason: str
    tokens: int
    seconds: float | None
    flops: float | None
    nbytes: float | None


class SkippedOut(Given):
    """One memory that changed and is not compiled, and why."""

    user: str
    memory_id: str
    reason: str


class PlanOut(Given):
    """What a recompilation would do."""

    tasks: list[TaskOut]
    skipped: list[SkippedOut]
    unchanged: int
    seconds: float


class ProgressOut(Given):
    """How far the memory that is compiled now is; the loss is in nats."""

    user: str
    memory_id: str
    phase: str
    step: int
    steps: int
    loss: float | None


class OutcomeOut(Given):
    """What became of one memory."""

    user: str
    memory_id: str
    status: str
    reason: str
    version: int
    seconds: float
    nbytes: int


class JobOut(Given):
    """A compilation or recompilation: waiting, running, or what became of it."""

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
    """What went wrong, and what to do."""

    message: str
    type: str
    param: str | None
    code: str
    request_id: str


class ErrorOut(Given):
    """The shape of every error."""

    error: ErrorDetail
