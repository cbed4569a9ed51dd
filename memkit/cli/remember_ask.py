"""``memkit remember`` and ``memkit ask``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memkit.cli.notes import note_toy
from memkit.cli.options import (
    Compiler,
    EmbedderName,
    EngineOption,
    GateName,
    Home,
    Json,
    Model,
    Options,
    Ratio,
    Tenant,
    Urls,
    User,
    check_text,
    compiler_options,
    memory_document,
    open_memory,
    owner_option,
)
from memkit.cli.output import InterruptError, Output
from memkit.cli.progress import compilation
from memkit.document import Document
from memkit.errors import ConfigError
from memkit.text.dates import parse_time

if TYPE_CHECKING:
    from memkit.answer import Part
    from memkit.bank import MemoryInfo
    from memkit.memory import Answer, Memory
    from memkit.router.types import CandidateTrace

File = Annotated[str, typer.Argument(metavar="FILE|-", help="A text file, or - for standard input.")]
Title = Annotated[str | None, typer.Option(help="Default: the file's name.", show_default=False)]
Running = Annotated[
    str | None,
    typer.Option("--memory", metavar="NAME", help="Add to this running memory.", show_default=False),
]
Speaker = Annotated[str, typer.Option(metavar="WHO", help="Running memories: who said it.")]
When = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Running memories: the time, as 2026-05-02 or 2026-05-02 08:00 (UTC, unless it names a zone). "
        "Default: now.",
        show_default=False,
    ),
]
Key = Annotated[
    str | None,
    typer.Option(
        metavar="K", help="Running memories: a repetition with the same key adds nothing.", show_default=False
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="Compile now, and return when it is done.")]
Always = Annotated[
    bool, typer.Option("--always", help="With --wait: compile even if `memkit advise` advises against it.")
]


def remember(
    file: File,
    user: User = None,
    tenant: Tenant = None,
    title: Title = None,
    name: Running = None,
    speaker: Speaker = "user",
    when: When = None,
    key: Key = None,
    compiler: Compiler = "auto",
    ratio: Ratio = None,
    option: Options = None,
    embedder: EmbedderName = None,
    engine: EngineOption = None,
    url: Urls = None,
    wait: Wait = False,
    always: Always = False,
    home: Home = None,
    model: Model = "nano",
    json: Json = False,
) -> None:
    """Remember a document, or add to a running memory (--memory).

    Questions can use its text at once. --wait also compiles it, if that is worthwhile. Remembering the same
    text again changes nothing: the same command with --wait compiles it later, or again for another
    --compiler, --ratio or --option.
    """
    output = Output(json)
    if name is None and (when is not None or key is not None):
        raise ConfigError("--when and --key belong to a running memory: name one with --memory")
    if always and not wait:
        raise ConfigError("--always belongs to --wait: add that to compile now")
    time = None if when is None else parse_time(when)
    document = _read(file, title)
    options = compiler_options(option, ratio)
    settings: dict[str, Any] = {"compiler": compiler, "options": options, "embedder": embedder}
    with open_memory(home, model, owner_option(user, tenant), engine=engine, urls=url, **settings) as memory:
        if name is None:
            info = memory.remember(document, compile=False)
        else:
            info = memory.remember(
                [{"role": speaker, "content": document.text, "when": time}], memory=name, key=key
            )
        before, reason = info.version, ""
        if wait:
            info, reason = _compile(output, memory, info, always)
        artifact = _artifact(memory, info)
        result = {"memory": memory_document(info), "artifact": artifact, "left_on_its_text": reason or None}
        output.result(
            result, lambda: _remembered(output, info, artifact, info.version == before, wait, reason)
        )
    if wait:
        note_toy(output, memory.model)


def _read(file: str, title: str | None) -> Document:
    if file == "-":
        return Document.from_bytes(sys.stdin.buffer.read(), title or "")
    document = Document.from_file(file)
    return document if title is None else dataclasses.replace(document, title=title)


def _compile(output: Output, memory: Memory, info: MemoryInfo, always: bool) -> tuple[MemoryInfo, str]:
    """The memory, compiled unless it already is, or the reason why it stays on its text."""
    from memkit.pipeline.due import up_to_date

    if up_to_date(memory.context, info):
        return info, ""
    if not always and (reason := memory.objection(info.id)):
        return info, reason
    try:
        with compilation(output) as progress:
            return memory.compile(info.id, progress=progress), ""
    except KeyboardInterrupt:
        info = memory.get(info.id)
        state = f"keeps its version {info.version}" if info.version else "stays answerable from its text"
        raise InterruptError(f"interrupted: the memory {state}") from None


def _artifact(memory: Memory, info: MemoryInfo) -> dict[str, Any] | None:
    """The size and the metrics of a published artifact."""
    if info.artifact_id is None:
        return None
    artifact = memory.bank.artifact(memory.owner, info.id)
    manifest = artifact.manifest
    artifact.close()
    return {"id": info.artifact_id, "tokens": manifest.tokens, **manifest.metrics}


def _size(artifact: Mapping[str, Any] | None) -> str:
    """How many tokens an artifact takes the place of, as far as its compiler tells."""
    before = (artifact or {}).get("context_tokens")
    return f"{before:,} tokens in {artifact['tokens']:,}, " if artifact and before else ""


def _remembered(
    output: Output,
    info: MemoryInfo,
    artifact: Mapping[str, Any] | None,
    unchanged: bool,
    wait: bool,
    reason: str,
) -> None:
    name = f"{info.id} {info.title!r}" if info.title else info.id
    if reason:
        output.say(f"{name}: {info.characters:,} characters, answerable from its text now")
        output.note(f"it is left on its text ({reason}); to compile it all the same, add --always")
    elif info.running and not wait:
        entries = "1 entry" if info.entries == 1 else f"{info.entries} entries"
        compiled = f"{info.behind} of them newer than its artifact" if info.version else "not compiled yet"
        output.say(f"{name}: {entries}, {compiled}")
    elif info.status == "compiled" and unchanged:
        output.say(f"{name}: already compiled by {info.compiler}, version {info.version}")
        output.note("to compile it in another way, give --compiler, with --ratio or --option")
    elif info.status == "compiled":
        output.say(
            f"{name}: compiled by {info.compiler}, version {info.version}: {_size(artifact)}"
            f"{info.artifact_bytes:,} bytes"
        )
    else:
        output.say(f"{name}: {info.characters:,} characters, answerable from its text now")
        if not wait:
            output.note("to compile it, run the same command with --wait")


def ask(
    question: Annotated[str, typer.Argument(metavar="QUESTION")],
    user: User = None,
    tenant: Tenant = None,
    trace: Annotated[bool, typer.Option("--trace", help="Show the trace, on standard error.")] = False,
    max_tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Longest answer, in tokens.")] = 64,
    gate: GateName = "auto",
    embedder: EmbedderName = None,
    engine: EngineOption = None,
    url: Urls = None,
    home: Home = None,
    model: Model = "nano",
    json: Json = False,
) -> None:
    """Ask a question.

    The answer comes from the user's best memory, compiled or as text, or from none if no memory fits the
    question.
    """
    output = Output(json)
    check_text("question", question)
    settings: dict[str, Any] = {"gate": gate, "embedder": embedder}
    with open_memory(home, model, owner_option(user, tenant), engine=engine, urls=url, **settings) as memory:
        answer = memory.ask(question, max_tokens=max_tokens)
        unused = _unused(memory, answer)
    output.result(answer, lambda: output.say(answer.text))
    if unused and not json:
        output.note(f"note: {unused}")
    note_toy(output, memory.model)
    if trace and not json:
        _trace(output, answer)


def _unused(memory: Memory, answer: Answer) -> str:
    """What the reader of an answer has to know about memories that it does not come from, or ""."""
    trace = answer.trace
    if trace.route == "none":
        return f"no memory was used ({trace.reason})"
    obstacle = next((c.obstacle for c in trace.candidates if c.memory_id == trace.memory_id), None)
    if trace.route == "text" and trace.memory_id and obstacle and memory.get(trace.memory_id).version:
        return f"answered from the memory's text, as its artifact cannot be used: {obstacle}"
    return ""


def _trace(output: Output, answer: Answer) -> None:
    trace = answer.trace
    margin = "" if trace.margin is None else f", {abs(trace.margin):.2f} from deciding otherwise"
    rows = [
        ("route", trace.route),
        ("because", trace.reason),
        ("gate", f"{trace.gate}, {'calibrated' if trace.calibrated else 'uncalibrated'}{margin}"),
        ("memory", trace.memory_id),
        ("artifact", f"{trace.artifact_id}, version {trace.version}" if trace.artifact_id else None),
        ("characters", ", ".join(f"{s.start} to {s.end}" for s in trace.spans) or None),
        *(("entry", _entry(part)) for part in trace.parts if part.said is not None),
        ("prompt tokens", trace.prompt_tokens),
        ("probes", f"{trace.probes} of one token"),
        ("routing", f"{trace.route_ms:.0f} ms"),
        ("first token", f"{trace.ttft_ms:.0f} ms after routing"),
        ("last token", f"{trace.total_ms:.0f} ms after routing"),
        *(("note", note) for note in trace.notes),
    ]
    output.table(("trace", ""), rows, err=True)
    if trace.candidates:
        output.note("")
        output.table(_CANDIDATE, [_candidate(c, trace.memory_id) for c in trace.candidates], err=True)


def _entry(part: Part) -> str:
    """An entry of a running memory that was read as text."""
    how = "also compiled" if part.compiled else "not compiled"
    return (
        f"{part.speaker}, {part.said:%Y-%m-%d %H:%M}, characters {part.span.start} to {part.span.end}, {how}"
    )


_CANDIDATE = tuple(
    "|candidate|similarity|overlap|margin|entropy|change|first token|right|title|artifact".split("|")
)


def _candidate(considered: CandidateTrace, chosen: str | None) -> tuple[Any, ...]:
    """A row of the trace's table; an arrow marks the memory used."""

    def number(name: str) -> str | None:
        value = considered.features.get(name)
        return None if value is None else f"{value:.2f}"

    unsure = considered.features.get("unsure")
    return (
        "→" if considered.memory_id == chosen else "",
        considered.memory_id,
        f"{considered.similarity:.2f}",
        number("overlap"),
        number("margin"),
        number("entropy"),
        number("entropy_change"),
        None if unsure is None else "unsure" if unsure else "an answer",
        None if considered.score is None else f"{considered.score:.2f}",
        considered.title,
        "not looked at" if considered.obstacle is None else considered.obstacle or "usable",
    )
