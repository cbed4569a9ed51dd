"""The data on which routing is calibrated and measured: a bank of records, and questions of three kinds.

``answerable``  a memory of the bank answers the question
``general``     the question is unrelated to the bank
``missing``     the question is about a memory's topic, but no memory answers it
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from memkit import text_metrics
from memkit.document import Document
from memkit.engine.base import Request
from memkit.errors import CompileError, VerificationError
from memkit.evals import records
from memkit.memory import Memory
from memkit.pipeline.ingest import store_documents
from memkit.router import calibrate as fit
from memkit.router import features
from memkit.router.calibration import Calibration, folder_of, save
from memkit.router.router import NO_COMPILER, Router
from memkit.router.types import RoutingState

Kind = Literal["answerable", "general", "missing"]
TENANT = "evaluation"
ANSWER_TOKENS = 32
PROBED = 4  # candidates of a question that are probed, besides the gold one
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Query:
    """A question of one kind, with the memory that it is about (None for none) and its gold answers."""

    text: str
    kind: Kind
    memory_id: str | None = None
    answers: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """Queries of the same group must not be split between fitting and reporting."""
        return self.memory_id or self.text


@dataclass(frozen=True)
class Sources:
    """The sources of records and questions; see `memkit.evals.records`."""

    source: str = "generated:12"  # records with answerable questions
    unrelated: str | None = None  # general questions; default: those that nano was not regularized with
    unanswerable: str | None = None  # records with unanswerable questions
    limit: int | None = None  # records
    questions: int | None = 4  # of each record
    others: int | None = 200  # maximum of general questions, and of records with unanswerable ones
    seed: int = 0


RouterDataset = tuple[list[records.Record], list[records.Record], list[records.Question]]


def load(sources: Sources) -> RouterDataset:
    """Records to compile, records that are only remembered, for their unanswerable questions, and general
    questions. Raises like `records.load`."""
    chosen = records.load(sources.source, sources.limit, sources.seed, sources.questions)
    contexts = {record.context for record in chosen}
    extra = records.load_unanswerable(sources.unanswerable, sources.others) if sources.unanswerable else []
    general = records.load_queries(sources.unrelated) if sources.unrelated else built_in()
    random.Random(sources.seed).shuffle(general)
    return chosen, [r for r in extra if r.context not in contexts], general[: sources.others]


def built_in() -> list[records.Question]:
    """General questions that are not used to regularize compilers."""
    from memkit.models.nano.general import HELD_OUT

    return [records.Question(question, (answer,)) for question, answer in HELD_OUT]


def fill(memory: Memory, chosen: Sequence[records.Record], extra: Sequence[records.Record]) -> dict[str, str]:
    """Remember all records, unless the bank has them; returns memory ids by record ids."""
    rows = [*chosen, *extra]
    documents = [Document(r.context, r.id) for r in rows]
    infos = store_documents(memory.bank, memory.owner, memory.router.embedder, documents)
    return {record.id: info.id for record, info in zip(rows, infos, strict=True)}


def compile_all(memory: Memory, ids: Sequence[str], progress: Progress) -> list[str]:
    """Compile the memories without an artifact; returns a message for each failure."""
    failed = list[str]()
    for done, memory_id in enumerate(ids):
        progress("compile", done, len(ids))
        if memory.get(memory_id).version:
            continue
        try:
            memory.compile(memory_id)
        except (CompileError, VerificationError) as error:
            failed.append(f"{memory_id}: {error}")
    return failed


def queries(
    chosen: Sequence[records.Record],
    extra: Sequence[records.Record],
    general: Sequence[records.Question],
    ids: Mapping[str, str],
) -> list[Query]:
    """The questions of all three kinds."""
    out = [
        Query(q.text, "answerable", ids[record.id], q.answers) for record in chosen for q in record.questions
    ]
    out += [Query(q, "missing", ids[r.id]) for r in (*chosen, *extra) for q in r.unanswerable]
    return out + [Query(q.text, "general", None, q.answers) for q in general]


class Observer:
    """Collects the features of a question for a calibration."""

    def __init__(self, memory: Memory, hidden: int = features.HIDDEN_DIMS) -> None:
        self.memory, self.hidden = memory, hidden
        self.router: Router = memory.router

    def observe(self, query: Query) -> fit.Observation | None:
        """The observation of a question; None if the bank is empty."""
        with ExitStack() as stack:
            state = self.router.retrieve(query.text, ANSWER_TOKENS, stack=stack)
            return self._observed(state, query) if state.ranked else None

    def _observed(self, state: RoutingState, query: Query) -> fit.Observation:
        keys = [c.memory.id for c in state.ranked]
        answerable = query.kind == "answerable"
        gold = keys.index(query.memory_id) if answerable and query.memory_id in keys else None
        wanted = sorted({*range(min(PROBED, len(keys))), *(() if gold is None else (gold,))})
        self.router.probe(state, wanted)
        found = tuple(features.search_features(state.ranked, i) for i in range(len(keys)))
        probed = {i: features.probe_features(found[i], p, self.hidden) for i, p in state.probes.items()}
        several = {i: p for i, p in state.probes.items() if p.alone}
        among = {i: features.comparison_features(found[i], p, self.hidden) for i, p in several.items()}
        about = gold if gold is not None else 0
        probe, _, _ = self.router.probe_text(state, state.ranked[about])
        return fit.Observation(
            query.group,
            answerable,
            gold,
            found,
            probed,
            among,
            tuple(self.router.contenders(state)),
            None if probe is None else features.probe_features(found[about], probe, self.hidden),
            state.probes[0].memory.entropy if 0 in state.probes else None,
            None if gold is None else self._latent_right(state, gold, query),
        )

    def _latent_right(self, state: RoutingState, gold: int, query: Query) -> bool | None:
        if gold not in state.probes:
            return None
        handle = state.handles[gold]
        if isinstance(handle, str):
            return None
        request = Request(query.text, handle=handle, max_tokens=ANSWER_TOKENS)
        (completion,) = self.memory.engine.generate([request])
        return bool(text_metrics.contains(completion.text, query.answers))


def observe_all(memory: Memory, asked: Sequence[Query], progress: Progress) -> list[fit.Observation]:
    """Observe every question."""
    observer, out = Observer(memory), list[fit.Observation]()
    for done, query in enumerate(asked):
        progress("observe", done, len(asked))
        observed = observer.observe(query)
        if observed is not None:
            out.append(observed)
    return out


def calibration_of(
    memory: Memory, compiler: str, observed: Sequence[fit.Observation], about: Mapping[str, Any], seed: int
) -> Calibration:
    """Fit a calibration and report on the held-out questions. Raises `ConfigError` for too few of them."""
    heads, limits = fit.fit_calibration(observed, features.HIDDEN_DIMS, seed)
    rest = [o for o in observed if fit.split_of(o.group) == "report"]
    return Calibration(
        memory.engine.fingerprint,
        compiler,
        memory.router.embedder.name,
        features.HIDDEN_DIMS,
        heads,
        limits,
        fit.risk_coverage_curve(rest, heads),
        {
            **about,
            **fit.held_out_report(rest, heads, limits),
            "n": len(observed),
            "n_report": len(rest),
            "seed": seed,
            "date": datetime.now(UTC).date().isoformat(),
        },
    )


def calibrate(
    memory: Memory, compiler: str, sources: Sources, bank: Path, progress: Progress
) -> tuple[Calibration, Path]:
    """Fill the bank of ``memory``, observe the questions and fit; saves the calibration in the bank's
    folder."""
    chosen, extra, general = load(sources)
    ids = fill(memory, chosen, extra)
    failed = [] if compiler == NO_COMPILER else compile_all(memory, [ids[r.id] for r in chosen], progress)
    questions = queries(chosen, extra, general, ids)
    observed = observe_all(memory, questions, progress)
    about = {"source": sources.source.rpartition("/")[2], "memories": len(ids), "not_compiled": len(failed)}
    calibration = calibration_of(memory, compiler, observed, about, sources.seed)
    return calibration, save(calibration, folder_of(bank))
