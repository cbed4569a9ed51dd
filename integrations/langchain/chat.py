"""`ChatMemkit`: a chat model that answers from a user's memories."""

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
from memkit.integrations.langchain.messages import Conversation, WarnOnce, parse_conversation
from memkit.memory import Memory
from memkit.text.stop_sequences import StopSequences


class ChatMemkit(BaseChatModel):
    """A chat model that answers from one user's memories, or without one if none is about the question.

    The router sees the last human message; only the model sees earlier messages and system messages.
    ``response_metadata["memkit"]`` of an answer says which memory was used and why. Its ``left_out`` lists
    the kinds of message parts that are not text and were ignored.

    ``max_tokens`` bounds the answer, in tokens. ``temperature`` 0 picks the likeliest token at every step;
    with a higher one, ``seed`` makes a sample repeatable. ``stop`` are texts at which the answer ends.
    Raises `ConfigError` for a conversation that does not end with a question.

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
    _once: WarnOnce = PrivateAttr(default_factory=WarnOnce)

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
        if stop_sequences := stop or self.stop:
            # Only a stream can end early.
            parts = list(self._stream(messages, stop_sequences, **kwargs))
            chunk = sum(parts[1:], parts[0]).message
            message = AIMessage(
                content=chunk.content,
                response_metadata=chunk.response_metadata,
                usage_metadata=getattr(chunk, "usage_metadata", None),
            )
            return ChatResult(generations=[ChatGeneration(message=message)])
        request = self._parse(messages)
        answer = self.memory.ask(request.question, history=request.history, **self._settings(request, kwargs))
        message = AIMessage(
            content=answer.text,
            response_metadata=self._metadata(answer, request),
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
        request = self._parse(messages)
        settings = self._settings(request, kwargs)
        with self.memory.stream(request.question, history=request.history, **settings) as stream:
            for piece in until_stop(stream, stop or self.stop or []):
                yield _notify(ChatGenerationChunk(message=AIMessageChunk(content=piece)), run_manager)
            answer = stream.answer if stream.finished else None
        last = AIMessageChunk(
            content="",
            response_metadata=self._base_metadata() if answer is None else self._metadata(answer, request),
            usage_metadata=None if answer is None else usage_of(answer),
            chunk_position="last",
        )
        yield _notify(ChatGenerationChunk(message=last), run_manager)

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        """Return this model: it calls no tools. Raises `ConfigError` unless ``tools`` is empty."""
        if tools:
            raise ConfigError(
                "ChatMemkit calls no tools: leave `tools` out, or give the tools to another chat model, as "
                "create_agent('openai:gpt-5', tools, middleware=[MemkitMiddleware(memory)])"
            )
        return self

    def _settings(self, request: Conversation, overrides: dict[str, Any]) -> dict[str, Any]:
        names = ("max_tokens", "temperature", "seed")
        return {
            **{name: overrides.get(name, getattr(self, name)) for name in names},
            "system": request.system,
        }

    def _parse(self, messages: list[BaseMessage]) -> Conversation:
        request = parse_conversation(messages)
        self._once.left_out(request.left_out)
        return request

    def _metadata(self, answer: Answer, request: Conversation) -> dict[str, Any]:
        trace = answer.trace
        used: dict[str, Any] = {"route": trace.route, "reason": trace.reason, "memory_id": trace.memory_id}
        used |= {"artifact_id": trace.artifact_id, "version": trace.version}
        used["spans"] = [[span.start, span.end] for span in trace.spans]
        if request.left_out:
            used["left_out"] = list(request.left_out)
        return {
            **self._base_metadata(),
            "finish_reason": "stop" if trace.stopped else "length",
            "memkit": used,
        }

    def _base_metadata(self) -> dict[str, Any]:
        """The metadata of an answer that ended at a stop sequence, before its trace was known."""
        return {"model_name": self.memory.model, "model_provider": "memkit", "finish_reason": "stop"}


def _notify(chunk: ChatGenerationChunk, run_manager: CallbackManagerForLLMRun | None) -> ChatGenerationChunk:
    """The chunk, after the run's callbacks have been notified of it."""
    if run_manager:
        run_manager.on_llm_new_token(str(chunk.message.content), chunk=chunk)
    return chunk


def usage_of(answer: Answer) -> UsageMetadata:
    """The token usage of an answer; ``input_tokens`` includes the artifact's positions."""
    prompt, completion = answer.trace.prompt_tokens, answer.trace.completion_tokens
    return UsageMetadata(input_tokens=prompt, output_tokens=completion, total_tokens=prompt + completion)


def until_stop(pieces: Iterator[str], stops: Sequence[str]) -> Iterator[str]:
    """Yield ``pieces`` up to the first of ``stops``; text that may be the start of one is held back."""
    stopper = StopSequences(stops)
    for piece in pieces:
        if ready := stopper.take(piece):
            yield ready
        if stopper.stopped:
            return
    if rest := stopper.rest():
        yield rest
