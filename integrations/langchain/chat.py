"""`ChatMemkit`: a chat model that answers from a user's memories, or without one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LangSmithParams
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import ConfigDict, Field, PrivateAttr, SkipValidation

from memkit.answer import Answer
from memkit.errors import ConfigError
from memkit.integrations.langchain.messages import Conversation, OncePerKind, conversation
from memkit.memory import Memory
from memkit.text.stop_sequences import StopSequences


class ChatMemkit(BaseChatModel):
    """A chat model in front of one user's memories.

    The router looks at the last human message; messages before it, and system messages, are read by the
    model alone. ``response_metadata["memkit"]`` of an answer tells which memory was used and why, and as
    ``left_out`` which kinds of message parts are no text and were not read.

    Example:
        >>> chat = ChatMemkit(memory=Memory("bank", user="mira"))
        >>> chat.invoke("Where does Simsem live?").content
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    memory: SkipValidation[Memory] = Field(default_factory=Memory, exclude=True)
    max_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    seed: int = 0
    stop: list[str] | None = None
    _once: OncePerKind = PrivateAttr(default_factory=OncePerKind)

    @property
    def _llm_type(self) -> str:
        return "memkit"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model": self.memory.model, "max_tokens": self.max_tokens, "seed": self.seed}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        model = kwargs.get("model", self.memory.model)
        params = LangSmithParams(ls_provider="memkit", ls_model_name=model, ls_model_type="chat")
        params["ls_max_tokens"] = kwargs.get("max_tokens", self.max_tokens)
        params["ls_temperature"] = kwargs.get("temperature", self.temperature)
        if stop := stop or self.stop:
            params["ls_stop"] = stop
        return params

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        if ends := stop or self.stop:
            # Only a stream can be left early.
            parts = list(self._stream(messages, ends, **kwargs))
            whole = sum(parts[1:], parts[0])
            chunk = whole.message
            message = AIMessage(
                content=chunk.content,
                response_metadata=chunk.response_metadata,
                usage_metadata=getattr(chunk, "usage_metadata", None),
            )
            return ChatResult(generations=[ChatGeneration(message=message)])
        asked = self._asked(messages)
        answer = self.memory.ask(asked.question, history=asked.history, **self._settings(asked, kwargs))
        message = AIMessage(
            content=answer.text,
            response_metadata=self._about(answer, asked),
            usage_metadata=usage_of(answer),
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        asked = self._asked(messages)
        settings = self._settings(asked, kwargs)
        with self.memory.stream(asked.question, history=asked.history, **settings) as stream:
            for piece in up_to_stop(stream, stop or self.stop or []):
                yield _told(ChatGenerationChunk(message=AIMessageChunk(content=piece)), run_manager)
            answer = stream.answer if stream.finished else None
        last = AIMessageChunk(
            content="",
            response_metadata=self._cut() if answer is None else self._about(answer, asked),
            usage_metadata=None if answer is None else usage_of(answer),
            chunk_position="last",
        )
        yield _told(ChatGenerationChunk(message=last), run_manager)

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        """The model as it is, without tools; it calls none, so that any raise `ConfigError`."""
        if tools:
            raise ConfigError(
                "ChatMemkit calls no tools: leave `tools` out, or give the tools to another chat model, as "
                "create_agent('openai:gpt-5', tools, middleware=[MemkitMiddleware(memory)])"
            )
        return self

    def _settings(self, asked: Conversation, given: dict[str, Any]) -> dict[str, Any]:
        own = {name: given.get(name, getattr(self, name)) for name in ("max_tokens", "temperature", "seed")}
        return {**own, "system": asked.system}

    def _asked(self, messages: list[BaseMessage]) -> Conversation:
        asked = conversation(messages)
        self._once.left_out(asked.left_out)
        return asked

    def _about(self, answer: Answer, asked: Conversation) -> dict[str, Any]:
        trace = answer.trace
        used: dict[str, Any] = {"route": trace.route, "reason": trace.reason, "memory_id": trace.memory_id}
        used |= {"artifact_id": trace.artifact_id, "version": trace.version}
        used["spans"] = [[span.start, span.end] for span in trace.spans]
        if asked.left_out:
            used["left_out"] = list(asked.left_out)
        return {**self._cut(), "finish_reason": "stop" if trace.stopped else "length", "memkit": used}

    def _cut(self) -> dict[str, Any]:
        return {"model_name": self.memory.model, "model_provider": "memkit", "finish_reason": "stop"}


def _told(chunk: ChatGenerationChunk, run_manager: CallbackManagerForLLMRun | None) -> ChatGenerationChunk:
    """The chunk, of which the run's callbacks are told."""
    if run_manager:
        run_manager.on_llm_new_token(str(chunk.message.content), chunk=chunk)
    return chunk


def usage_of(answer: Answer) -> UsageMetadata:
    """Tokens of an answer; ``input_tokens`` are positions in front of it, artifact included."""
    read, written = answer.trace.prompt_tokens, answer.trace.completion_tokens
    return UsageMetadata(input_tokens=read, output_tokens=written, total_tokens=read + written)


def up_to_stop(pieces: Iterator[str], stops: Sequence[str]) -> Iterator[str]:
    """A text up to the first of ``stops``. What might be the beginning of one is held back."""
    stopper = StopSequences(stops)
    for piece in pieces:
        if ready := stopper.take(piece):
            yield ready
        if stopper.stopped:
            return
    if rest := stopper.rest():
        yield rest
