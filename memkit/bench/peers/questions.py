"""The first part: every system remembers the same documents and answers the same questions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from memkit.bench.peers.figures import Timing, add_ratios, costs, spread, turns
from memkit.bench.peers.systems import PeerAnswer, System
from memkit.errors import MemkitError
from memkit.evals.records import Record
from memkit.text_metrics import contains, wilson

Progress = Callable[[str, int, int], None]
REFERENCE = "memkit, text"
MAX_MESSAGE = 240  # characters of a failure


@dataclass
class PeerRun:
    """A system's results on the documents."""

    remembered: list[Timing] = field(default_factory=list)
    memories: int = 0
    failures: list[str] = field(default_factory=list)
    prepare_s: list[float] = field(default_factory=list)


def compare(
    systems: Sequence[System], records: Sequence[Record], progress: Progress
) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each system and variant, times in milliseconds; and messages about failures.

    The systems take turns at every document and every question, in a different order each time.
    """
    runs = {system.name: PeerRun() for system in systems}
    for done, record in enumerate(records):
        progress("remember", done, len(records))
        for system in turns(systems, done):
            _remember(system, record.context, runs[system.name])
    for done, system in enumerate(systems):
        progress("compile", done, len(systems))
        runs[system.name].prepare_s = system.prepare()
    questions = [question for record in records for question in record.questions]
    for system in systems:  # warms up
        list(system.ask(questions[0].text))
    answers = defaultdict[tuple[str, str], list[tuple[PeerAnswer, float]]](list)
    for done, question in enumerate(questions):
        progress("ask", done, len(questions))
        for system in turns(systems, done):
            for answer in system.ask(question.text):
                right = contains(answer.text, question.answers)
                answers[system.name, answer.variant].append((answer, right))
    sizes = {system.name: system.close() for system in systems}
    rows = [
        _row(name, variant, runs[name], answers[name, variant], sizes[name])
        for name in runs
        for variant in [v for n, v in answers if n == name]
    ]
    add_ratios(rows, REFERENCE, ("remember", "search", "answer", "ask"))
    return rows, [_failed(name, each) for name, each in runs.items() if each.failures]


def _remember(system: System, text: str, run: PeerRun) -> None:
    try:
        memories, timing = system.remember(text)
    except MemkitError as error:
        run.failures.append(" ".join(str(error).split()))
        return
    run.memories += memories
    run.remembered.append(timing)


def _row(
    name: str, variant: str, run: PeerRun, answers: Sequence[tuple[PeerAnswer, float]], size: int
) -> dict[str, Any]:
    right, replies = sum(score for _, score in answers), [answer for answer, _ in answers]
    embedded = [answer.embed_ms for answer in replies if answer.embed_ms is not None]
    return {
        "row": f"{name}, {variant}" if variant else name,
        "memories": run.memories,
        "failed": len(run.failures),
        "n": len(replies),
        "contains": right / len(replies),
        "contains_ci95": list(wilson(right, len(replies))),
        "latent_share": sum(answer.latent for answer in replies) / len(replies),
        **costs("remember", run.remembered),
        "compile_p50_s": median(run.prepare_s) if run.prepare_s else None,
        **spread("search", [answer.search_ms for answer in replies]),
        "embed_p50_ms": median(embedded) if embedded else None,
        **spread("answer", [answer.answer_ms for answer in replies]),
        **spread("ask", [answer.search_ms + answer.answer_ms for answer in replies]),
        "ask_cpu_ms": median(answer.cpu_ms for answer in replies),
        "bytes": size,
    }


def _failed(name: str, run: PeerRun) -> str:
    count = len(run.failures)
    return f"{name}: {count} documents could not be remembered; the first: {run.failures[0][:MAX_MESSAGE]}"
