"""``memkit demo``: every step on one generated document, offline."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memkit.cli.options import (
    Compiler,
    Json,
    Model,
    Options,
    Ratio,
    Tenant,
    User,
    compiler_options,
    open_memory,
    owner_option,
)
from memkit.cli.output import Output
from memkit.cli.progress import compilation
from memkit.errors import VerificationError

if TYPE_CHECKING:
    from memkit.memory import Memory
    from memkit.models.nano.documents import Question

BY_TEXT = 3  # questions before the compilation
_NO_HOME = "Keep the demo's bank here; it must not hold one yet. Default: a temporary folder."


@dataclass(frozen=True)
class Exchange:
    """A question of the demo, with the expected and the actual answer."""

    question: str
    expected: str
    answer: str
    route: str
    correct: bool
    prompt_tokens: int
    ms: float


def demo(
    compiler: Compiler = "auto",
    ratio: Ratio = None,
    option: Options = None,
    user: User = None,
    tenant: Tenant = None,
    home: Annotated[
        Path | None, typer.Option("--home", metavar="PATH", help=_NO_HOME, show_default=False)
    ] = None,
    model: Model = "nano",
    json: Json = False,
) -> None:
    """See memkit at work: remember, ask, compile, ask again, forget. Half a minute, offline."""
    output, started = Output(json), time.perf_counter()
    show = Output() if not json else None  # as JSON, everything comes at the end
    owner = owner_option(user, tenant)
    settings: dict[str, Any] = {"compiler": compiler, "options": compiler_options(option, ratio)}
    with _folder(home) as folder, open_memory(folder, model, owner, **settings) as memory:
        result = {"model": model, **_run(output, show, memory)}
    result["seconds"] = time.perf_counter() - started
    output.result(result, lambda: _sizes(output, result))
    if result["forgotten"]["from_memory"]:
        raise VerificationError("forgetting failed: a question was still answered from memory")


@contextmanager
def _folder(home: Path | None) -> Iterator[Path]:
    if home is None:
        with tempfile.TemporaryDirectory(prefix="memkit-demo-") as folder:
            yield Path(folder)
        return
    if home.exists() and any(home.iterdir()):
        raise typer.BadParameter(f"{home} is not empty", param_hint="--home")
    yield home


def _run(output: Output, show: Output | None, memory: Memory) -> dict[str, Any]:
    """All steps in order, each shown when it is done."""
    from memkit.document import Document as Source
    from memkit.models.nano import world
    from memkit.models.nano.documents import Document, Generator, Question

    generator = Generator(seed=7, split="eval")
    document = generator.document(8, 3, 8)
    questions = list(generator.questions(document))
    general = Question("What is the capital of France?", "Paris", "general")
    stranger = Question(generator.missing(Document("", (), ())).text, world.IDK, "missing")

    _title(show, "A document")
    _say(show, document.text)
    info = memory.remember(Source(document.text, "demo"), compile=False)
    by_text = _step(
        show, memory, "Remembered. Asked at once, it is answered from its text", questions[:BY_TEXT]
    )
    _title(show, "Compiled into an artifact")
    with compilation(output) as progress:
        info, compiled = memory.compile_with_cost(info.id, progress=progress)
    tokens = memory.engine.count_tokens(document.text)
    _say(
        show,
        f"{tokens} tokens became {compiled.tokens}, in {compiled.seconds:.1f} s and {compiled.steps} steps",
    )
    latent = _step(
        show, memory, "Compiled: from the artifact, or from the text where the gate doubts it", questions
    )
    aside = _step(show, memory, "Questions that the document is not about", [general, stranger])
    receipts = memory.forget(info.id)
    after = _step(
        show, memory, "Forgotten. Asked again, none should be answered right", questions, known=False
    )
    return {
        "document": {"text": document.text, "characters": len(document.text), "tokens": tokens},
        "text": by_text,
        "artifact": {
            "id": info.artifact_id,
            "tokens": compiled.tokens,
            "bytes": info.artifact_bytes,
            "seconds": compiled.seconds,
            "steps": compiled.steps,
        },
        "latent": latent,
        "aside": aside,
        "forgotten": {
            "receipts": receipts,
            "from_memory": sum(asked.route != "none" for asked in after["asked"]),
            **after,
        },
    }


def _step(
    show: Output | None, memory: Memory, title: str, questions: Sequence[Question], *, known: bool = True
) -> dict[str, Any]:
    """Ask, and show which answers are as expected: right, or wrong unless ``known``."""
    answers = [_ask(memory, question) for question in questions]
    correct = sum(one.correct for one in answers)
    if show is not None:
        _title(show, title)
        show.table(
            ("", "route", "question", "answer", "expected"),
            [
                ("✓" if a.correct == known else "✗", a.route, a.question, a.answer, a.expected)
                for a in answers
            ],
        )
        show.say(f"{correct} of {len(answers)} answered right")
    return {"asked": answers, "correct": correct, "total": len(answers)}


def _ask(memory: Memory, question: Question) -> Exchange:
    from memkit.text_metrics import exact_match

    answer = memory.ask(question.text)
    return Exchange(
        question.text,
        question.answer,
        answer.text,
        answer.route,
        bool(exact_match(answer.text, [question.answer])),
        answer.trace.prompt_tokens,
        answer.trace.total_ms,
    )


def _title(show: Output | None, text: str) -> None:
    if show is not None:
        show.out.print()
        show.out.print(text, style="bold", markup=False)


def _say(show: Output | None, text: str) -> None:
    if show is not None:
        show.say(text)


def _sizes(output: Output, result: dict[str, Any]) -> None:
    document, artifact, latent = result["document"], result["artifact"], result["latent"]
    by_latent = sum(asked.route == "latent" for asked in latent["asked"])
    _title(output, "In short")
    output.table(
        ("", ""),
        [
            ("model", result["model"]),
            ("document", f"{document['tokens']} tokens, {document['characters']} characters"),
            ("artifact", f"{artifact['tokens']} tokens, {artifact['bytes']:,} bytes"),
            ("compiled in", f"{artifact['seconds']:.1f} s"),
            ("right from its text", f"{result['text']['correct']} of {result['text']['total']}"),
            (
                "right once compiled",
                f"{latent['correct']} of {latent['total']} ({by_latent} by the latent route)",
            ),
            ("from memory after forgetting", f"{result['forgotten']['from_memory']} of {latent['total']}"),
            ("all of this", f"{result['seconds']:.1f} s"),
        ],
    )
