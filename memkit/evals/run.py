"""Run an evaluation: baselines and compilers on the same questions, cell by cell."""

from __future__ import annotations

import math
import multiprocessing
import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import pad

from memkit import registry
from memkit.artifact.format import Artifact
from memkit.compilers.base import Compiled, Step
from memkit.document import Document
from memkit.engine.base import Request
from memkit.engine.transformers.engine import TransformersEngine
from memkit.engine.transformers.kv_cache import KVCache
from memkit.errors import CompileError, ConfigError
from memkit.evals import records
from memkit.evals.baselines.key_masks import keys_hidden
from memkit.evals.baselines.kvpress import PressedContext
from memkit.evals.baselines.rag import Passages
from memkit.evals.config import KVPRESS, EvalConfig, Variant
from memkit.evals.journal import Cell, Journal, by_category, table, transcript
from memkit.evals.measure import MethodEvaluator, Reference
from memkit.evals.timing import stamp
from memkit.judge import Judge
from memkit.models.loading import quiet_libraries
from memkit.pipeline.admission import SelfTest
from memkit.router.embedders import Embedder, resolve_embedder

__all__ = ["EvalConfig", "Variant", "evaluate"]

CURVE_EVERY = 5  # steps between the stored points of a loss curve
DRIFT_QUERIES = 32  # maximum from a file of general questions; each is asked with every memory

Progress = Callable[[str, int, int], None]


class _Evaluation:
    def __init__(self, config: EvalConfig, engine: TransformersEngine, progress: Progress) -> None:
        self.config, self.engine, self.progress = config.resolved(engine.base.prompts), engine, progress
        repeats = self.config.ttft or 0
        drift = _drift(self.config)
        self.measurer = MethodEvaluator(engine, drift, ttft=repeats, tokens=config.answer_tokens)
        self.embedder = resolve_embedder(config.embedder)
        self.judge = Judge(config.judge) if config.judge else None

    def choose(self) -> tuple[list[records.Record], list[str]]:
        """The records to measure, and the ids of those before the last of them that are too long.

        Raises `ConfigError` when no record is short enough.
        """
        config, chosen, skipped = self.config, list[records.Record](), list[str]()
        for record in records.answerable(config.source, config.seed, config.questions):
            if config.limit is not None and len(chosen) == config.limit:
                break
            worded = config.worded(record, self.engine.base.prompts)
            if self.measurer.fits(worded) and self._short(worded):
                chosen.append(worded)
            else:
                skipped.append(record.id)
        if not chosen:
            limit = min(self.engine.window, config.max_tokens or self.engine.window)
            raise ConfigError(
                f"no record of {config.source} fits the {limit:,} tokens that {config.model} reads"
            )
        return chosen, skipped

    def _short(self, record: records.Record) -> bool:
        most = self.config.max_tokens
        return most is None or self.engine.count_tokens(record.context) <= most

    def record(self, record: records.Record, journal: Journal) -> None:
        """Measure the cells of one record that are not in the journal."""
        absent = _absent(self.config, record, journal)
        if not absent:
            return
        self.progress(f"{record.id} full context", 0, len(absent))
        inputs = _Inputs(self.engine, self.embedder, self.measurer.reference(record))
        for done, (method, ratio) in enumerate(absent):
            if twin := self._twin(method, ratio, record, journal):
                journal.add(replace(twin, method=method, ratio=ratio))
                continue
            self.progress(_label(record, method, ratio), done, len(absent))
            values = self._values(method, ratio, inputs)
            if self.judge and "answers" in values:
                values["judge"] = tuple(
                    self.judge.score(record.context, question.text, question.answers, answer)
                    for question, answer in zip(record.questions, values["answers"], strict=True)
                )
            kinds = tuple(q.category for q in record.questions)
            journal.add(Cell(method, ratio, record.id, metric=record.metric, categories=kinds, **values))

    def _values(self, method: str, ratio: float | None, inputs: _Inputs) -> dict[str, Any]:
        """The measured fields of a `Cell`."""
        if method in ("full", "none"):
            return self._bound(method, inputs.reference)
        if method == "rag" and ratio is not None:
            return self._rag(ratio, inputs)
        if method.startswith(f"{KVPRESS}:") and ratio is not None:
            return self._pressed(method.partition(":")[2], ratio, inputs)
        return self._compiled(method, ratio, inputs)

    def _twin(
        self, method: str, ratio: float | None, record: records.Record, journal: Journal
    ) -> Cell | None:
        """A cell of this record from the same compiler and options under another label."""
        settings = self.config.compiler(method, ratio)
        for other in self.config.variants:
            cell = journal.cells.get((other.label, other.ratio, record.id))
            if cell and self.config.compiler(other.label, other.ratio) == settings:
                return cell
        return None

    def _budget(self, record: records.Record, ratio: float) -> int:
        return math.ceil(self.engine.count_tokens(record.context) / ratio)

    def _bound(self, method: str, reference: Reference) -> dict[str, Any]:
        first = reference.questions[0]
        if method == "full":
            request = Request(first, context=reference.record.context)
            return self.measurer.measure(reference, reference.reader) | self.measurer.timed(request)
        return self.measurer.measure(reference, self.measurer.reader()) | self.measurer.timed(Request(first))

    def _rag(self, ratio: float, inputs: _Inputs) -> dict[str, Any]:
        reference, budget = inputs.reference, self._budget(inputs.record, ratio)
        asked = [question.unworded or question.text for question in inputs.record.questions]
        texts = [inputs.passages.best(question, budget) for question in asked]
        request = Request(reference.questions[0], context=texts[0])
        return self.measurer.measure_each(reference, texts) | self.measurer.timed(request)

    def _pressed(self, press: str, ratio: float, inputs: _Inputs) -> dict[str, Any]:
        reference, measurer, budget = inputs.reference, self.measurer, self._budget(inputs.record, ratio)
        pressed = inputs.pressed
        kept = pad(pressed.kept(press, budget), (pressed.header, 0), value=True)  # all of the header
        with keys_hidden(self.engine.base.model, kept):
            values = measurer.measure(reference, measurer.reader_of_kv(pressed.kv))
        query = measurer.prompt_tokens(Request(reference.questions[0], context=""))
        return values | {"prompt_tokens": float(query + min(budget, pressed.tokens))}

    def _compiled(self, name: str, ratio: float | None, inputs: _Inputs) -> dict[str, Any]:
        reference = inputs.reference
        record = reference.record
        plain, options = self.config.compiler("lcc:cartridge" if name == "cartridge" else name, ratio)
        if options.get("coupled"):
            return self._coupled(options, reference)
        compiler = registry.compiler(plain, options)

        label = _label(record, name, ratio)

        def report(step: Step) -> None:
            self.progress(f"{label} {step.phase}", step.step, step.steps)

        try:
            compiled = compiler.compile(
                Document(record.context), self.engine.base, tenant="evaluation", progress=report
            )
        except CompileError as error:
            return {"reason": str(error)}
        handle = self.engine.attach(Artifact.decode(compiled.data))
        try:
            return (
                self.measurer.measure(reference, self.measurer.reader(handle))
                | self.measurer.timed(Request(reference.questions[0], handle=handle))
                | _costs(compiled)
                | ({"admission": inputs.self_test.measure(handle).plain()} if self.config.self_test else {})
            )
        finally:
            self.engine.detach(handle)

    def _coupled(self, options: dict[str, Any], reference: Reference) -> dict[str, Any]:
        """LCC's ablation: the LoRA stays on for the answers."""
        from memkit.compilers.base import configure
        from memkit.compilers.lcc.compiler import train_coupled
        from memkit.compilers.lcc.config import PRESETS, LCCConfig

        config = configure(LCCConfig, PRESETS, options)
        base, memory = train_coupled(Document(reference.record.context), self.engine.base, config)
        tokens = self.config.answer_tokens
        measurer = MethodEvaluator(TransformersEngine(base), self.measurer.drift, tokens=tokens)
        header = self.measurer.reader().prefix
        return measurer.measure(reference, measurer.reader_of_kv(header.join(memory) if header else memory))


@dataclass(frozen=True)
class _Inputs:
    """What several methods need of a record; each is computed when the first of them asks for it."""

    engine: TransformersEngine
    embedder: Embedder
    reference: Reference

    @property
    def record(self) -> records.Record:
        return self.reference.record

    @cached_property
    def passages(self) -> Passages:
        return Passages(self.engine, self.embedder, self.record.context)

    @cached_property
    def pressed(self) -> PressedContext:
        prefix = self.reference.reader.prefix
        dense = prefix if isinstance(prefix, KVCache) else None
        return PressedContext(self.engine.base, self.record.context, dense)

    @cached_property
    def self_test(self) -> SelfTest:
        return SelfTest.of(self.engine, Document(self.record.context))


def _label(record: records.Record, method: str, ratio: float | None) -> str:
    return f"{record.id} {method}" if ratio is None else f"{record.id} {method} {ratio:g}x"


def _costs(compiled: Compiled) -> dict[str, Any]:
    return {
        "compile_s": compiled.seconds,
        "compile_flops": compiled.flops,
        "compile_steps": compiled.steps,
        "artifact_bytes": len(compiled.data),
        "curve": tuple(point for point in compiled.curve if point[1] % CURVE_EVERY == 0),
    }


def _drift(config: EvalConfig) -> list[records.Question] | None:
    """Some of the questions that drift is measured on, if a file of them was given; None: it is not."""
    if config.drift in (None, records.NO_DRIFT):
        return None
    if config.drift == records.GENERAL:
        return []
    questions = records.load_queries(config.drift)
    return random.Random(config.seed).sample(questions, min(DRIFT_QUERIES, len(questions)))


def _absent(config: EvalConfig, record: records.Record, journal: Journal) -> list[tuple[str, float | None]]:
    return [method for method in config.methods if (*method, record.id) not in journal.cells]


@lru_cache(maxsize=1)
def _own_engine(model: str) -> TransformersEngine:
    """The engine of a worker process, loaded once for all its records."""
    quiet_libraries()  # this process writes to the parent's output
    torch.set_num_threads(1)  # the other cores have their own workers
    return TransformersEngine(model)


def _measured(config: EvalConfig, record: records.Record, existing: tuple[Cell, ...]) -> list[Cell]:
    """The cells of one record that are not in ``known``, measured in a worker process."""
    measured = Journal(None, {})
    for cell in existing:
        measured.add(cell)
    _Evaluation(config, _own_engine(config.model), lambda label, done, total: None).record(record, measured)
    return [cell for cell in measured.cells.values() if cell not in existing]


def _in_processes(
    config: EvalConfig, chosen: Sequence[records.Record], journal: Journal, progress: Progress, workers: int
) -> None:
    """Measure records in parallel; a record's cells are added when all of them are measured."""
    waiting = [record for record in chosen if _absent(config, record, journal)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        jobs = dict[Future[list[Cell]], str]()
        for record in waiting:
            measured = tuple(cell for cell in journal.cells.values() if cell.record == record.id)
            jobs[pool.submit(_measured, config, record, measured)] = record.id
        for done, job in enumerate(as_completed(jobs), start=1):
            for cell in job.result():
                journal.add(cell)
            progress(f"record {jobs[job]}", done, len(waiting))


def _in_order(config: EvalConfig, chosen: Sequence[records.Record], journal: Journal) -> list[Cell]:
    order = {method: i for i, method in enumerate(config.methods)}
    place = {record.id: i for i, record in enumerate(chosen)}
    cells = [cell for cell in journal.cells.values() if cell.record in place]
    return sorted(cells, key=lambda c: (order[c.method, c.ratio], place[c.record]))


def _wording(config: EvalConfig, chosen: Sequence[records.Record], engine: TransformersEngine) -> str:
    """The template of the questions, or of those that have one."""
    plain = all(record.metric == "rouge_l" for record in chosen)
    return config.wording or (records.QUESTION if plain else engine.base.prompts.short_answer)


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def evaluate(
    config: EvalConfig,
    progress: Progress = lambda label, done, total: None,
    engine: TransformersEngine | None = None,
    journal: Path | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Run the evaluation; returns ``{"model", "seed", "rows": [...]}``.

    ``categories`` holds the rows by category of question, ``asked`` every question with all answers.
    Retention and drift are relative to the rows ``full`` and ``none`` of the same run. With a ``journal`` (a
    file, removed at the end) an interrupted evaluation is resumed, also with another limit. With several
    ``workers``, processes of one thread each, times to first token are those of a busy machine. Raises
    `ConfigError` when no record fits the model's window.
    """
    records.load(config.source, 1, config.seed)  # what cannot be read is told before a model is loaded
    run = _Evaluation(config, engine or TransformersEngine(config.model), progress)
    config = run.config
    fitting, skipped = run.choose()
    about = {**vars(config), "options": dict(config.options), "fingerprint": run.engine.fingerprint}
    del about["limit"]  # which records are measured does not change what is measured of each
    cells_journal = Journal(journal, about)
    if workers > 1:
        _in_processes(config, fitting, cells_journal, progress, workers)
    else:
        for done, record in enumerate(fitting):
            progress(f"record {record.id}", done, len(fitting))
            run.record(record, cells_journal)
    progress("done", len(fitting), len(fitting))
    cells = _in_order(config, fitting, cells_journal)
    rows = table(cells, run.measurer.bare_general)
    for row in rows:
        for variant in config.variants:
            if variant.predicted and (variant.label, variant.ratio) == (row["method"], row["ratio"]):
                row["predicted"] = variant.predicted
    cells_journal.remove_file()
    return {
        "model": config.model,
        "fingerprint": run.engine.fingerprint,
        "source": config.source.rpartition("/")[2],
        "seed": config.seed,
        "records": len(fitting),
        "embedder": run.embedder.name,
        "wording": _wording(config, fitting, run.engine),
        "drift": None if config.drift in (None, records.GENERAL) else Path(config.drift).name,
        "max_tokens": config.max_tokens,
        "skipped": skipped,  # longer than that, or than the model's window
        "general_without_memory": run.measurer.bare_general,
        **stamp(
            run.engine.base.model.device.type,
            str(run.engine.base.model.dtype).removeprefix("torch."),
            _threads(torch.get_num_threads()) if workers == 1 else f"{workers} processes of 1 thread",
        ),
        "rows": rows,
        "categories": by_category(cells),
        "asked": transcript(fitting, cells),
    }
