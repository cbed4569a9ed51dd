"""Run an evaluation: baselines and compilers on the same questions, cell by cell."""

from __future__ import annotations

import math
import multiprocessing
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from memkit import registry
from memkit.artifact.format import Artifact
from memkit.compilers.base import Compiled, Step
from memkit.document import Document
from memkit.engine.base import Request
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import CompileError, ConfigError
from memkit.evals import records
from memkit.evals.baselines.kvpress import PRESSES, compress_with
from memkit.evals.baselines.rag import passages
from memkit.evals.journal import Cell, Journal, by_category, table, transcript
from memkit.evals.measure import MethodEvaluator, Reference
from memkit.evals.timing import stamp
from memkit.judge import Judge, JudgeConfig
from memkit.models.loading import quiet_libraries
from memkit.pipeline.admission import SelfTest
from memkit.router.embedders import resolve_embedder

BASELINES = ("full", "none", "rag", "kvpress", "cartridge")
CURVE_EVERY = 5  # steps between the stored points of a loss curve
DRIFT_QUERIES = 32  # maximum from a file of general questions; each is asked with every memory


@dataclass(frozen=True)
class Variant:
    """A separate row: a compiler with options, at one ratio; ``predicted`` is its expected result."""

    label: str
    compiler: str
    ratio: float
    options: Mapping[str, Any] = field(default_factory=dict)
    predicted: str = ""


@dataclass(frozen=True)
class EvalConfig:
    """What to evaluate. Raises `ConfigError` for invalid values.

    The baselines ``rag``, ``kvpress`` (three presses) and ``cartridge`` (direct training of the KV) get the
    token budget of an artifact at each ratio.
    """

    source: str  # see `memkit.evals.records.load`
    model: str = "nano"
    compilers: tuple[str, ...] = ("lcc",)  # names, or name:preset
    baselines: tuple[str, ...] = ("full", "none")
    ratios: tuple[float, ...] = (16.0,)  # for each compiler with a ratio
    limit: int | None = None  # records
    questions: int | None = None  # of each record
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)  # for every compiler
    variants: tuple[Variant, ...] = ()
    judge: JudgeConfig | None = None
    embedder: str | None = None  # of the baseline rag; see `memkit.router.embedders.resolve_embedder`
    wording: str = records.QUESTION  # template of questions, for all methods
    drift: str | None = None  # file of general questions to measure drift on, or "none"; default: nano's

    def __post_init__(self) -> None:
        if records.QUESTION not in self.wording:
            raise ConfigError(f"the wording must hold {records.QUESTION}, got {self.wording!r}")
        if unknown := sorted(set(self.baselines) - set(BASELINES)):
            raise ConfigError(f"unknown baseline {', '.join(unknown)}; there are: {', '.join(BASELINES)}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit must be at least 1, got {self.limit}")
        if not self.ratios or min(self.ratios) < 1:
            raise ConfigError("every ratio must be at least 1")
        for name in self.compilers:
            registry.compiler(*self.compiler(name, self._ratios(name)[0]))
        for variant in self.variants:
            registry.compiler(*self.compiler(variant.label, variant.ratio))

    def compiler(self, name: str, ratio: float | None) -> tuple[str, dict[str, Any]]:
        """The registry name and options of ``name[:preset]``, or of a variant, at a ratio (None: without
        one)."""
        options = {**self.options, **({} if ratio is None else {"ratio": ratio}), "seed": self.seed}
        for variant in self.variants:
            if (variant.label, variant.ratio) == (name, ratio):
                return variant.compiler, {**options, **variant.options}
        plain, _, preset = name.partition(":")
        return plain, {**options, "preset": preset} if preset else options

    def _ratios(self, name: str) -> tuple[float | None, ...]:
        """The ratios at which a compiler or a baseline is measured."""
        plain = name.partition(":")[0]
        return self.ratios if plain in BASELINES or registry.takes_ratio(plain) else (None,)

    @property
    def methods(self) -> list[tuple[str, float | None]]:
        """The rows of the table, (method, ratio), in order."""
        fixed: list[tuple[str, float | None]] = [(b, None) for b in ("full", "none") if b in self.baselines]
        names = [b for b in ("rag",) if b in self.baselines]
        names += [f"kvpress:{press}" for press in PRESSES if "kvpress" in self.baselines]
        names += [b for b in ("cartridge",) if b in self.baselines]
        compiled = [(name, ratio) for name in (*names, *self.compilers) for ratio in self._ratios(name)]
        return [*fixed, *compiled, *((v.label, v.ratio) for v in self.variants)]


Progress = Callable[[str, int, int], None]


class _Evaluation:
    def __init__(self, config: EvalConfig, engine: TransformersEngine, progress: Progress) -> None:
        self.config, self.engine, self.progress = config, engine, progress
        self.measurer = MethodEvaluator(engine, _drift(config))
        self.embedder = resolve_embedder(config.embedder)
        self.judge = Judge(config.judge) if config.judge else None

    def record(self, record: records.Record, journal: Journal) -> None:
        """Measure the cells of one record that are not in the journal."""
        absent = _absent(self.config, record, journal)
        if not absent:
            return
        reference = self.measurer.reference(record)
        test: SelfTest | None = None
        for method, ratio in absent:
            if method in ("full", "none"):
                values = self._bound(method, reference)
            elif method == "rag" and ratio is not None:
                values = self._rag(ratio, reference)
            elif method.startswith("kvpress:") and ratio is not None:
                values = self._pressed(method.partition(":")[2], ratio, reference)
            elif twin := self._twin(method, ratio, record, journal):
                journal.add(replace(twin, method=method, ratio=ratio))
                continue
            else:
                test = test or SelfTest.of(self.engine, Document(record.context))
                values = self._compiled(method, ratio, reference, test)
            if self.judge and "answers" in values:
                values["judge"] = tuple(
                    self.judge.score(record.context, question.text, question.answers, answer)
                    for question, answer in zip(record.questions, values["answers"], strict=True)
                )
            kinds = tuple(q.category for q in record.questions)
            journal.add(Cell(method, ratio, record.id, metric=record.metric, categories=kinds, **values))

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

    def _rag(self, ratio: float, reference: Reference) -> dict[str, Any]:
        record, budget = reference.record, self._budget(reference.record, ratio)
        texts = [
            passages(self.engine, self.embedder, record.context, question, budget)
            for question in reference.questions
        ]
        readers = [self.measurer.reader(context=text) for text in texts]
        request = Request(reference.questions[0], context=texts[0])
        return self.measurer.measure_each(reference, readers) | self.measurer.timed(request)

    def _pressed(self, press: str, ratio: float, reference: Reference) -> dict[str, Any]:
        budget = self._budget(reference.record, ratio)
        prefix = compress_with(self.engine.base, press, reference.record.context, budget)
        return self.measurer.measure(reference, self.measurer.reader_of_kv(prefix)) | {
            "prompt_tokens": float(prefix.tokens)
        }

    def _compiled(
        self, name: str, ratio: float | None, reference: Reference, test: SelfTest
    ) -> dict[str, Any]:
        record = reference.record
        plain, options = self.config.compiler("lcc:cartridge" if name == "cartridge" else name, ratio)
        if options.get("coupled"):
            return self._coupled(options, reference)
        compiler = registry.compiler(plain, options)

        label = f"{record.id} {name}" if ratio is None else f"{record.id} {name} {ratio:g}x"

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
                | {"admission": test.measure(handle).plain()}
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
        measurer = MethodEvaluator(TransformersEngine(base), self.measurer.drift)
        header = self.measurer.reader().prefix
        return measurer.measure(reference, measurer.reader_of_kv(header.join(memory) if header else memory))


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
    if config.drift == records.NO_DRIFT:
        return None
    if config.drift is None:
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
    return sorted(journal.cells.values(), key=lambda c: (order[c.method, c.ratio], place[c.record]))


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
    file, removed at the end) an interrupted evaluation is resumed. With several ``workers``, processes of one
    thread each, times to first token are those of a busy machine. Raises `ConfigError` when no record fits
    the model's window.
    """
    loaded = records.load(config.source, config.limit, config.seed, config.questions)
    chosen = [record.worded(config.wording) for record in loaded]
    run = _Evaluation(config, engine or TransformersEngine(config.model), progress)
    about = {**vars(config), "options": dict(config.options), "fingerprint": run.engine.fingerprint}
    cells_journal = Journal(journal, about)
    fitting = [record for record in chosen if run.measurer.fits(record)]
    skipped = [record.id for record in chosen if record not in fitting]
    if not fitting:
        raise ConfigError(
            f"no record of {config.source} fits the {run.engine.window:,} tokens that {config.model} reads"
        )
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
        "wording": config.wording,
        "drift": None if config.drift is None else Path(config.drift).name,
        "skipped": skipped,  # longer than the model's window
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
