"""The admission gate: the tests that every artifact must pass before it is published.

With `SelfTest.of` the frozen model writes questions and answers them with the text in view.
`SelfTest.measure` asks the artifact the same questions, and `Thresholds.refusal` says why it may not be
published. Thresholds belong to a model and a compiler; `memkit.evals.calibrate_admission` computes them.

The loss of a memory is measured on the greedy answers with full context: by how many nats per token they
become less likely. Averaged over samples of the teacher, this would be KL(full ‖ memory) (LCC eq. 2).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Self

from memkit import registry
from memkit.compilers.base import Progress, Step, silent
from memkit.engine.base import Engine, Handle, Request
from memkit.errors import ConfigError
from memkit.models.prompt_sets import prompt_set
from memkit.prompts import REPEAT, is_held_out

if TYPE_CHECKING:
    from memkit.artifact.format import Artifact
    from memkit.document import Document


PHASE = "self-test"  # as progress names it
SHORT = {
    "questions": 4,
    "general": 4,
    "answer_tokens": 16,
    "pieces": 1,
}  # of `AdmissionConfig`; see `usual_test`


@dataclass(frozen=True)
class AdmissionConfig:
    """How an artifact is tested. Raises `ConfigError` for values out of range."""

    questions: int = 48  # that the model writes; duplicates are dropped
    temperature: float = 0.7  # at which it writes them
    general: int = 12  # questions that need no memory
    answer_tokens: int = 32  # of an answer, at most
    pieces: int = 8  # of a long document, evenly spread, that are tested
    piece_share: float = 0.5  # of the model's window, for one piece
    reconstruction: int = 96  # tokens at the start of the text whose likelihood is measured
    seed: int = 1  # of the questions

    def __post_init__(self) -> None:
        for name in ("questions", "general", "answer_tokens", "pieces", "reconstruction"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.piece_share <= 0.8:
            raise ConfigError(f"piece_share must be in (0, 0.8], got {self.piece_share}")


@dataclass(frozen=True)
class SelfTestResult:
    """The figures of a self-test.

    ``questions`` is the number of questions. ``fidelity`` is the share that is answered word for word as
    with the text in view. ``held_out`` and ``held_out_fidelity`` are the same for the questions that no
    compiler trains on; the latter is None without any. ``answer_nats``, ``reconstruction_nats`` and
    ``drift_nats`` are losses in nats per token, of answers from the text, of repeating its start and of
    general answers; more is worse.
    """

    questions: int
    fidelity: float
    held_out: int
    held_out_fidelity: float | None
    answer_nats: float
    reconstruction_nats: float
    drift_nats: float

    def plain(self) -> dict[str, Any]:
        """As plain data, rounded so that a replay on the same machine gives the same bytes."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class _Probe:
    question: str
    answer: str
    likelihood: float  # of the answer, in its own context; nats per token


class SelfTest:
    """Questions about one document, with the frozen model's answers with the text in view.

    ``about`` are questions about the text; ``repeated`` asks to repeat it; ``general`` are questions that
    need no memory.
    """

    def __init__(
        self,
        engine: Engine,
        about: Sequence[_Probe],
        repeated: Sequence[_Probe],
        general: Sequence[_Probe],
        config: AdmissionConfig,
    ) -> None:
        self._engine, self._config = engine, config
        self._about, self._repeated, self._general = tuple(about), tuple(repeated), tuple(general)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The questions about the text, with the model's answers."""
        return [(probe.question, probe.answer) for probe in self._about]

    @classmethod
    def of(
        cls,
        engine: Engine,
        document: Document,
        config: AdmissionConfig | None = None,
        progress: Progress = silent,
    ) -> Self:
        """Let the model of ``engine`` write questions about ``document`` and answer them.

        ``progress`` is called before the questions about each piece are written, before they are answered,
        and before the general ones are; the last step is left for `measure`.
        """
        config, started = config or AdmissionConfig(), time.perf_counter()
        texts = _pieces(engine, document, config)
        about, repeated = list[_Probe](), list[_Probe]()

        def begin(step: int) -> None:
            progress(Step(PHASE, step, 2 * len(texts) + 2, 0.0, time.perf_counter() - started))

        for number, text in enumerate(texts):
            count = math.ceil(config.questions / len(texts))
            begin(2 * number)
            with engine.prefilled(text):
                written = _questions(engine, text, count, number, config)
                begin(2 * number + 1)
                about += _answer_probes(engine, written, text, config)
                start = _first_words(engine, text, config.reconstruction)
                repeated += _measure_probes(engine, [REPEAT], [start], text)
        begin(2 * len(texts))
        questions = prompt_set(engine.model).drift_questions[: config.general]
        general = _answer_probes(engine, questions, None, config)
        begin(2 * len(texts) + 1)
        return cls(engine, about, repeated[:1], general, config)

    def measure(self, handle: Handle) -> SelfTestResult:
        """Ask the attached artifact the same questions."""
        questions = [probe.question for probe in self._about]
        answers = _generate(self._engine, questions, self._config.answer_tokens, handle=handle)
        same = [
            _words(probe.answer) == _words(text) for probe, text in zip(self._about, answers, strict=True)
        ]
        held_out = [s for probe, s in zip(self._about, same, strict=True) if is_held_out(probe.question)]
        return SelfTestResult(
            questions=len(same),
            fidelity=sum(same) / max(len(same), 1),
            held_out=len(held_out),
            held_out_fidelity=sum(held_out) / len(held_out) if held_out else None,
            answer_nats=self._loss(self._about, handle),
            reconstruction_nats=self._loss(self._repeated, handle),
            drift_nats=self._loss(self._general, handle),
        )

    def _loss(self, probes: Sequence[_Probe], handle: Handle) -> float:
        """By how many nats per token the probes' answers become less likely, on average."""
        requests = [Request(probe.question, handle=handle) for probe in probes]
        likely = self._engine.likelihood(requests, [probe.answer for probe in probes])
        losses = [probe.likelihood - value for probe, value in zip(probes, likely, strict=True)]
        return sum(losses) / max(len(probes), 1)


def _words(text: str) -> list[str]:
    return text.lower().split()


def _pieces(engine: Engine, document: Document, config: AdmissionConfig) -> list[str]:
    """The whole text if it fits the share of the window, or else pieces of it, evenly spread."""
    room = int(engine.window * config.piece_share)
    if engine.count_tokens(document.text) <= room:
        return [document.text]
    pieces, current, used = list[str](), "", 0
    for span in document.chunks():
        chunk = document.text[span.start : span.end]
        cost = engine.count_tokens(chunk)
        if current and used + cost > room:
            pieces.append(current)
            current, used = "", 0
        current, used = current + chunk, used + cost
    pieces.append(current)
    step = max(len(pieces) / config.pieces, 1.0)
    return [pieces[int(i * step)] for i in range(min(config.pieces, len(pieces)))]


def _first_words(engine: Engine, text: str, tokens: int) -> str:
    """The first words of a text, at most ``tokens`` tokens but at least one word."""
    words = text.split(" ")
    low, high = 1, len(words)
    while low < high:  # bisect for the most words that fit
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if engine.count_tokens(" ".join(words[:middle])) <= tokens else (low, middle - 1)
        )
    return " ".join(words[:low])


def _questions(engine: Engine, text: str, count: int, salt: int, config: AdmissionConfig) -> list[str]:
    prompts = prompt_set(engine.model).study_requests(text, count)
    seed = config.seed + 1000 * salt  # each batch has its own seed, so that equal prompts give other samples
    requests = [
        Request(prompt, context=text, max_tokens=48, temperature=config.temperature, seed=seed + i // 16)
        for i, prompt in enumerate(prompts)
    ]
    lines = (completion.text.split("\n")[0].strip() for completion in engine.generate(requests))
    unique = list(dict.fromkeys(line for line in lines if line))
    return [line for line in unique if line.endswith("?")] or unique


def _generate(
    engine: Engine,
    questions: Sequence[str],
    tokens: int,
    handle: Handle | None = None,
    context: str | None = None,
) -> list[str]:
    requests = [Request(q, handle=handle, context=context, max_tokens=tokens) for q in questions]
    return [completion.text for completion in engine.generate(requests)]


def _answer_probes(
    engine: Engine, questions: Sequence[str], context: str | None, config: AdmissionConfig
) -> list[_Probe]:
    answers = _generate(engine, questions, config.answer_tokens, context=context)
    return _measure_probes(engine, questions, answers, context)


def _measure_probes(
    engine: Engine, questions: Sequence[str], answers: Sequence[str], context: str | None
) -> list[_Probe]:
    requests = [Request(q, context=context) for q in questions]
    likely = engine.likelihood(requests, answers)
    return [_Probe(q, a, v) for q, a, v in zip(questions, answers, likely, strict=True)]


@dataclass(frozen=True)
class Thresholds:
    """The limits that an artifact must keep to be published.

    ``min_fidelity`` is a share; ``max_answer_nats`` and ``max_drift_nats`` are nats per token. ``source``
    says where they come from. Raises `ConfigError` for a share out of range.
    """

    min_fidelity: float
    max_answer_nats: float
    max_drift_nats: float
    source: str

    def __post_init__(self) -> None:
        if not 0 <= self.min_fidelity <= 1:
            raise ConfigError(f"min_fidelity must be in [0, 1], got {self.min_fidelity}")

    def refusal(self, measured: SelfTestResult) -> str:
        """Why an artifact may not be published, or ""."""
        if measured.questions and measured.fidelity < self.min_fidelity:
            return (
                f"it answers {measured.fidelity:.0%} of {measured.questions} self-test questions as the text "
                f"does; at least {self.min_fidelity:.0%} is needed"
            )
        for name in ("answer_nats", "drift_nats"):
            value, limit = getattr(measured, name), getattr(self, f"max_{name}")
            if not value <= limit:
                what = "answers from the text" if name == "answer_nats" else "general answers"
                return f"{what} lose {value:.2f} nats per token; at most {limit:.2f} are allowed"
        return ""


@dataclass(frozen=True)
class Verdict:
    """The admission gate's verdict; ``refusal`` is "" if the artifact may be published.

    ``measured`` are the figures of the self-test; ``thresholds`` is None if none are calibrated.
    """

    measured: SelfTestResult
    thresholds: Thresholds | None
    refusal: str

    def plain(self) -> dict[str, Any]:
        """As plain data for the artifact's manifest."""
        return {
            **self.measured.plain(),
            "thresholds": None if self.thresholds is None else asdict(self.thresholds),
        }


def judge(
    engine: Engine,
    document: Document,
    artifact: Artifact,
    config: AdmissionConfig,
    progress: Progress = silent,
) -> Verdict:
    """Test an artifact of ``document`` against the thresholds of its model and compiler.

    If none are calibrated, nothing is refused. ``progress`` is called as by `SelfTest.of`.
    """
    test = SelfTest.of(engine, document, config, progress)
    with engine.attached(artifact, keep=False) as handle:
        measured = test.measure(handle)
    limits = thresholds(engine.fingerprint, artifact.manifest.compiler)
    return Verdict(measured, limits, limits.refusal(measured) if limits else "")


def thresholds(fingerprint: str, compiler: str) -> Thresholds | None:
    """The calibrated thresholds that ship with memkit for a base model and a compiler, or None."""
    table = json.loads(files("memkit.pipeline").joinpath("thresholds.json").read_text())
    row = table.get(fingerprint, {}).get(compiler)
    return None if row is None else parse_thresholds(row)


def usual_test(config: AdmissionConfig, fingerprint: str, compiler: str) -> AdmissionConfig:
    """How the artifacts of a compiler are tested: as ``config`` says, or shorter.

    A test without thresholds refuses nothing. Where nothing is trained either, it would take many times as
    long as the compilation.
    """
    if compiler not in registry.compilers() or registry.trains(compiler) or thresholds(fingerprint, compiler):
        return config
    return replace(config, **{key: min(value, getattr(config, key)) for key, value in SHORT.items()})


def parse_thresholds(row: Any) -> Thresholds:
    """Thresholds from parsed JSON. Raises `ConfigError` for anything else."""
    names = {f.name for f in fields(Thresholds)}
    if not isinstance(row, dict) or set(row) != names:
        raise ConfigError(f"thresholds are an object with exactly {', '.join(sorted(names))}")
    try:
        return Thresholds(**row)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"not thresholds: {error}") from error
