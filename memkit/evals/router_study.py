"""The study of the router: ``memkit eval --study router``.

A bank is filled with records; for each compiler its documents are compiled once and stored, so that an
interrupted study can be resumed. Classifiers and thresholds are fitted to the questions of three quarters of
the documents; all rows but ``candidates`` are measured on the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from memkit import registry, text_metrics
from memkit.engine.base import Handle, Request
from memkit.engine.transformers.engine import TransformersEngine, prompt_of
from memkit.errors import ConfigError
from memkit.evals import router_dataset
from memkit.evals.probe_flops import RequestFlops
from memkit.evals.router_dataset import ANSWER_TOKENS, TENANT, Query, Sources
from memkit.evals.timing import stamp
from memkit.memory import Memory
from memkit.router import calibrate
from memkit.router.calibration import folder_of, save
from memkit.router.gate import Decision, GateConfig
from memkit.router.gates import LearnedGate
from memkit.router.passages import text_budget
from memkit.router.router import NO_COMPILER, Router
from memkit.router.types import RoutingState

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RoutingConfig:
    """What to measure. Raises `ConfigError` for invalid values."""

    sources: Sources
    home: Path  # folder for the banks, one for each compiler
    model: str = "nano"
    compilers: tuple[str, ...] = ("lcc",)  # names, or name:preset; "none" compiles nothing
    embedder: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # of every compiler
    passages: int = 4  # of text retrieval

    def __post_init__(self) -> None:
        if not self.compilers:
            raise ConfigError(f"give at least one compiler, or {NO_COMPILER}")
        if self.passages < 1:
            raise ConfigError(f"passages must be at least 1, got {self.passages}")


@dataclass(frozen=True)
class RoutedQuestion:
    """A question as routed by a method."""

    request: Request
    memory_id: str | None
    decision: Decision | None = None
    probes: tuple[Request, ...] = ()


class Study:
    """The bank of one compiler, and the methods that answer from it."""

    def __init__(self, memory: Memory, config: RoutingConfig) -> None:
        self.memory, self.config = memory, config
        self.engine = memory.local
        self.flops = RequestFlops(self.engine)
        self.routers = {
            name: Router(memory.bank, TENANT, lambda: memory.engine, memory.router.embedder, GateConfig(name))
            for name in ("rule", "entropy", "learned")
        }
        self._held = ExitStack()  # keeps artifacts attached until the requests are answered
        self._said = dict[tuple[str, Handle | None, str | None], str]()

    # -- methods --------------------------------------------------------------------------------
    def none(self, query: Query) -> RoutedQuestion:
        return RoutedQuestion(self._request(query.text), None)

    def text_rag(self, query: Query) -> RoutedQuestion:
        """The best passages of several memories as text, without a gate."""
        router = self.routers["rule"]
        state = router.retrieve(query.text, ANSWER_TOKENS)
        room, texts = text_budget(self.engine, query.text, ANSWER_TOKENS), list[str]()
        best = [c.hit for c in state.ranked[: self.config.passages]]
        for text in self.memory.bank.excerpts(TENANT, best):
            room -= self.engine.count_tokens(text)
            if room < 0:
                break
            texts.append(text.strip())
        if not texts:
            return self.none(query)
        return RoutedQuestion(self._request(query.text, context="\n".join(texts)), state.ranked[0].memory.id)

    def oracle(self, query: Query) -> RoutedQuestion:
        """The gold memory, by its artifact if it has one."""
        if query.memory_id is None:
            return self.none(query)
        router = self.routers["rule"]
        state = router.retrieve(query.text, ANSWER_TOKENS, stack=self._held)
        ranked = [c for c in state.ranked if c.memory.id == query.memory_id]
        if not ranked:  # the search missed it; the oracle does not
            info = self.memory.get(query.memory_id)
            vector = router.embedder.question(query.text)
            hit = self.memory.bank.search(TENANT, vector, 1, within=info.id)[0]
            ranked = [replace(state.ranked[0], memory=info, hit=hit)]
        return self._take(replace_ranked(state, ranked), 0)

    def retrieved(self, query: Query) -> RoutedQuestion:
        """The first candidate, whatever it is."""
        return self._take(self.routers["rule"].retrieve(query.text, ANSWER_TOKENS, stack=self._held), 0)

    def routed(self, query: Query) -> RoutedQuestion:
        """The candidate that the classifiers prefer, without a gate."""
        router = self.routers["learned"]
        state = router.retrieve(query.text, ANSWER_TOKENS, stack=self._held)
        if not router.load_calibrations(state):
            raise ConfigError("the study's calibration is missing")
        best, _, _ = LearnedGate.rank(router, state)
        return self._take(state, best)

    def gated(self, name: str) -> Callable[[Query], RoutedQuestion]:
        """Full routing, with the gate of that name."""

        def ask(query: Query) -> RoutedQuestion:
            routed = self.routers[name].route(query.text, ANSWER_TOKENS, stack=self._held)
            chosen = routed.decision.candidate
            key = chosen.memory.id if chosen else None
            return RoutedQuestion(routed.request, key, routed.decision, routed.probes)

        return ask

    def _take(self, state: RoutingState, i: int) -> RoutedQuestion:
        """A candidate by its artifact, else by its text."""
        router, candidate = self.routers["rule"], state.ranked[i]
        if router.attach(state, [i]):
            handle = state.handles[i]
            if isinstance(handle, Handle):
                return RoutedQuestion(self._request(state.question, handle=handle), candidate.memory.id)
        text, _ = router.text(state, candidate)
        return RoutedQuestion(self._request(state.question, context=text or None), candidate.memory.id)

    def _request(self, question: str, handle: Handle | None = None, context: str | None = None) -> Request:
        return Request(question, handle=handle, context=context, max_tokens=ANSWER_TOKENS)

    def answer(self, request: Request) -> str:
        """The answer to a request; cached for equal requests."""
        key = (request.question, request.handle, request.context)
        if key not in self._said:
            (completion,) = self.engine.generate([request])
            self._said[key] = completion.text
        return self._said[key]

    # -- rows -----------------------------------------------------------------------------------
    def candidates(self, questions: Sequence[Query]) -> dict[str, Any]:
        """The recall of the search alone, over all answerable questions."""
        ranks = list[int]()
        for query in questions:
            if query.kind == "answerable":
                keys = [c.memory.id for c in self.routers["rule"].retrieve(query.text).ranked]
                ranks.append(keys.index(query.memory_id) if query.memory_id in keys else len(keys))
        n = len(ranks)
        return {
            "row": "candidates",
            "n": n,
            "recall_at_1": sum(r < 1 for r in ranks) / n,
            "recall_at_8": sum(r < 8 for r in ranks) / n,
            "memories": len(self.memory.list()),
        }

    def rows(self, questions: Sequence[Query], progress: Progress) -> Iterator[dict[str, Any]]:
        """One row for each method, then the gate's."""
        bare = {query.text: self.answer(self.none(query).request) for query in questions}
        methods: dict[str, Callable[[Query], RoutedQuestion]] = {
            "none": self.none,
            "text_rag": self.text_rag,
            "oracle": self.oracle,
            "retrieved": self.retrieved,
            "routed": self.routed,
            "rule_gate": self.gated("rule"),
            "entropy_gate": self.gated("entropy"),
            "routed_gated": self.gated("learned"),
        }
        by_method = dict[str, dict[str, Any]]()
        for done, (name, method) in enumerate(methods.items()):
            progress(name, done, len(methods))
            row = {"row": name, **self._measured([(query, method(query)) for query in questions], bare)}
            by_method[name] = row
        best = by_method["oracle"]["score"]
        for name, row in by_method.items():
            row["relative_to_oracle"] = row["score"] / best if best and row["score"] is not None else None
            if not name.endswith(("gate", "gated")):
                row.pop("balanced_accuracy")
                row.pop("auroc")
        keys = ("balanced_accuracy", "auroc", "harm_points", "overhead_flops", "n", "n_other", "routes")
        yield from by_method.values()
        yield {"row": "gate", **{key: by_method["routed_gated"][key] for key in keys}}

    def _measured(
        self, pairs: Sequence[tuple[Query, RoutedQuestion]], bare: Mapping[str, str]
    ) -> dict[str, Any]:
        scores, tops, general = list[float](), list[bool](), list[float]()
        probes = answers = 0.0
        for query, routed in pairs:
            text = self.answer(routed.request)
            if query.kind == "answerable":
                scores.append(text_metrics.contains(text, query.answers))
                tops.append(routed.memory_id == query.memory_id)
                # The answer continues from one of the probes.
                spare = [r for r in routed.probes if prompt_of(r) != prompt_of(routed.request)]
                probes += sum(map(self.flops.probe, spare))
                answers += self.flops.answer(routed.request, text)
            elif query.kind == "general":
                general.append(_kept(text, bare[query.text], query.answers))
        n = len(scores)
        used = [routed.memory_id is not None for _, routed in pairs]
        labels = [query.kind == "answerable" for query, _ in pairs]
        values = [routed.decision.score for _, routed in pairs if routed.decision]
        return {
            "n": n,
            "n_other": len(pairs) - n,
            "score": text_metrics.mean(scores),
            "score_ci95": text_metrics.wilson(sum(scores), n),
            "top1": sum(tops) / n if n else None,
            "balanced_accuracy": calibrate.balanced_accuracy(used, labels),
            "auroc": calibrate.auroc(values, labels) if len(values) == len(labels) else None,
            "harm_points": 100 * sum(general) / len(general) if general else None,
            "overhead_flops": probes / answers if answers else None,
            "routes": _routes(pairs),
        }


def replace_ranked(state: RoutingState, ranked: list[Any]) -> RoutingState:
    """The same question with other candidates."""
    return RoutingState(state.question, state.vector, state.max_tokens, ranked, state.stack)


def _kept(text: str, bare: str, golds: Sequence[str]) -> float:
    """The score with the bank minus that without; without gold answers, similarity to the bare answer minus
    1."""
    if golds:
        return text_metrics.contains(text, golds) - text_metrics.contains(bare, golds)
    return 0.0 if text == bare else text_metrics.rouge_l(text, [bare]) - 1.0


def _routes(pairs: Sequence[tuple[Query, RoutedQuestion]]) -> dict[str, dict[str, int]]:
    """The number of questions by kind and route."""
    out = dict[str, dict[str, int]]()
    for query, routed in pairs:
        request = routed.request
        route = "latent" if request.handle else "text" if request.context is not None else "none"
        counts = out.setdefault(query.kind, {})
        counts[route] = counts.get(route, 0) + 1
    return out


def study(
    config: RoutingConfig,
    progress: Progress = lambda label, done, total: None,
    engine: TransformersEngine | None = None,
) -> dict[str, Any]:
    """Run the study; returns ``{"study": "router", ..., "rows": [...]}`` with ``compiler`` in every row."""
    loaded = router_dataset.load(config.sources)
    engine = engine or TransformersEngine(config.model)
    rows, reports = list[dict[str, Any]](), dict[str, Any]()
    for compiler in config.compilers:
        measured, reports[compiler] = _of_compiler(compiler, config, engine, loaded, progress)
        rows += [{"compiler": compiler, **row} for row in measured]
    return {
        "study": "router",
        "model": engine.model,
        "fingerprint": engine.fingerprint,
        "embedder": config.embedder or "lexical",
        "source": config.sources.source.rpartition("/")[2],
        "seed": config.sources.seed,
        "records": len(loaded[0]),
        **stamp(engine.base.model.device.type),
        "calibrations": reports,
        "rows": rows,
    }


def _of_compiler(
    compiler: str,
    config: RoutingConfig,
    engine: TransformersEngine,
    loaded: router_dataset.RouterDataset,
    progress: Progress,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of one compiler, and its calibration."""
    chosen, extra, general = loaded
    home = config.home / compiler.replace(":", "-")
    name, _, preset = compiler.partition(":")
    bare = compiler == NO_COMPILER
    options = {} if bare else dict(config.options) | ({"preset": preset} if preset else {})
    if not bare and not registry.takes_ratio(name):
        options.pop("ratio", None)
    with Memory(
        home,
        user=TENANT,
        compiler="lcc" if bare else name,  # one that is never called
        options=options,
        engine=engine,
        embedder=config.embedder,
    ) as memory:
        ids = router_dataset.fill(memory, chosen, extra)
        failed = [] if bare else router_dataset.compile_all(memory, [ids[r.id] for r in chosen], progress)
        questions = router_dataset.queries(chosen, extra, general, ids)
        held_out = [q for q in questions if calibrate.split_of(q.group) == "report"]
        observed = router_dataset.observe_all(memory, [q for q in questions if q not in held_out], progress)
        about = {"source": config.sources.source.rpartition("/")[2], "not_compiled": len(failed)}
        calibration = router_dataset.calibration_of(memory, name, observed, about, config.sources.seed)
        save(calibration, folder_of(home))
        one = Study(memory, config)
        rows = [one.candidates(questions), *one.rows(held_out, progress)]
        return rows, {
            "thresholds": calibration.thresholds,
            "risk_coverage": calibration.curve,
            "not_compiled": failed,
        }
