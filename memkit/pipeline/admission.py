"""The admission gate: what an artifact must show before it is published, whatever compiled it.

`SelfTest.of` lets the frozen model write and answer questions with the text in view;
`SelfTest.measure` asks the same of an artifact; `Thresholds.refusal` says why it may not be
published. Thresholds belong to a model and a compiler, and come from `memkit.evals.calibrate_admission`.

The loss of a memory is measured on the full context's own greedy answers: how many nats per token
less likely they became. Averaged over the teacher's samples that would be KL(full ‖ memory) (LCC eq. 2).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Self

from memkit.engine.base import Engine, Handle, Request
from memkit.errors import ConfigError
from memkit.models.prompt_sets import prompt_set
from memkit.prompts import REPEAT, is_held_out

if TYPE_CHECKING:
    from memkit.artifact.format import Artifact
    from memkit.document import Document


@dataclass(frozen=True)
class AdmissionConfig:
    """How an artifact is tested."""

    questions: int = 48  # written by the model; doubles are dropped
    temperature: float = 0.7
    answer_tokens: int = 32
    pieces: int = 8  # of a long document that are tested, evenly spread
    piece_share: float = 0.5  # of the model's window that a piece may fill
    reconstruction: int = 96  # tokens from a piece's start that must stay likely
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("questions", "answer_tokens", "pieces", "reconstruction"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.piece_share <= 0.8:
            raise ConfigError(f"piece_share must be in (0, 0.8], got {self.piece_share}")


@dataclass(frozen=True)
class SelfTestResult:
    """What a self-test found; the nats are per token, more is worse.

    ``fidelity`` is the share of questions answered word for word as with the text in view,
    ``held_out_fidelity`` that of the questions which no compiler trains on (None: there were none).
    """

    questions: int
    fidelity: float
    held_out: int
    held_out_fidelity: float | None
    answer_nats: float
    reconstruction_nats: float
    drift_nats: float

    def plain(self) -> dict[str, Any]:
        """Rounded so that a replay on the same machine gives the same bytes."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


@dataclass(frozen=True)
class _Probe:
    question: str
    answer: str
    likelihood: float  # of the answer where it was given, nats per token


class SelfTest:
    """Questions about one document, answered by the frozen model with the text in view."""

    def __init__(
        self,
        engine: Engine,
        asked: Sequence[_Probe],
        repeated: Sequence[_Probe],
        general: Sequence[_Probe],
        config: AdmissionConfig,
    ) -> None:
        self._engine, self._config = engine, config
        self._asked, self._repeated, self._general = tuple(asked), tuple(repeated), tuple(general)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The questions about the text, with the model's answers."""
        return [(asked.question, asked.answer) for asked in self._asked]

    @classmethod
    def of(cls, engine: Engine, document: Document, config: AdmissionConfig | None = None) -> Self:
        """Write and answer the questions."""
        config = config or AdmissionConfig()
        texts = _pieces(engine, document, config)
        asked, repeated = list[_Probe](), list[_Probe]()
        for number, text in enumerate(texts):
            count = math.ceil(config.questions / len(texts))
            asked += _answered(engine, _questions(engine, text, count, number, config), text, config)
            opening = _opening(engine, text, config.reconstruction)
            repeated += _given(engine, [REPEAT], [opening], text)
        general = _answered(engine, prompt_set(engine.model).drift_questions, None, config)
        return cls(engine, asked, repeated[:1], general, config)

    def measure(self, handle: Handle) -> SelfTestResult:
        """Ask the attached artifact the same."""
        questions = [a.question for a in self._asked]
        said = _generate(self._engine, questions, self._config.answer_tokens, handle=handle)
        same = [_words(a.answer) == _words(text) for a, text in zip(self._asked, said, strict=True)]
        unseen = [s for a, s in zip(self._asked, same, strict=True) if is_held_out(a.question)]
        return SelfTestResult(
            questions=len(same),
            fidelity=sum(same) / max(len(same), 1),
            held_out=len(unseen),
            held_out_fidelity=sum(unseen) / len(unseen) if unseen else None,
            answer_nats=self._lost(self._asked, handle),
            reconstruction_nats=self._lost(self._repeated, handle),
            drift_nats=self._lost(self._general, handle),
        )

    def _lost(self, asked: Sequence[_Probe], handle: Handle) -> float:
        """Mean loss of log-probability per token of the given answers."""
        requests = [Request(a.question, handle=handle) for a in asked]
        now = self._engine.likelihood(requests, [a.answer for a in asked])
        return sum(a.likelihood - n for a, n in zip(asked, now, strict=True)) / max(len(asked), 1)


def _words(text: str) -> list[str]:
    return text.lower().split()


def _pieces(engine: Engine, document: Document, config: AdmissionConfig) -> list[str]:
    """The whole text if the model can read it at once, else pieces of it, evenly spread."""
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


def _opening(engine: Engine, text: str, tokens: int) -> str:
    """The text's first sentences, about ``tokens`` tokens of them."""
    words = text.split(" ")
    low, high = 1, len(words)
    while low < high:  # the most words that fit
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if engine.count_tokens(" ".join(words[:middle])) <= tokens else (low, middle - 1)
        )
    return " ".join(words[:low])


def _questions(engine: Engine, text: str, count: int, salt: int, config: AdmissionConfig) -> list[str]:
    prompts = prompt_set(engine.model).study_requests(text, count)
    seed = config.seed + 1000 * salt  # and another one for every batch: equal requests draw differently
    requests = [
        Request(prompt, context=text, max_tokens=48, temperature=config.temperature, seed=seed + i // 16)
        for i, prompt in enumerate(prompts)
    ]
    lines = (completion.text.split("\n")[0].strip() for completion in engine.generate(requests))
    written = list(dict.fromkeys(line for line in lines if line))
    return [line for line in written if line.endswith("?")] or written


def _generate(
    engine: Engine,
    questions: Sequence[str],
    tokens: int,
    handle: Handle | None = None,
    context: str | None = None,
) -> list[str]:
    requests = [Request(q, handle=handle, context=context, max_tokens=tokens) for q in questions]
    return [completion.text for completion in engine.generate(requests)]


def _answered(
    engine: Engine, questions: Sequence[str], context: str | None, config: AdmissionConfig
) -> list[_Probe]:
    answers = _generate(engine, questions, config.answer_tokens, context=context)
    return _given(engine, questions, answers, context)


def _given(
    engine: Engine, questions: Sequence[str], answers: Sequence[str], context: str | None
) -> list[_Probe]:
    requests = [Request(q, context=context) for q in questions]
    likely = engine.likelihood(requests, answers)
    return [_Probe(q, a, v) for q, a, v in zip(questions, answers, likely, strict=True)]


@dataclass(frozen=True)
class Thresholds:
    """The least that an artifact must show; ``source`` says where the figures come from."""

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
    """What the gate says of an artifact: ``refusal`` is "" for one that may be published."""

    measured: SelfTestResult
    thresholds: Thresholds | None
    refusal: str

    def plain(self) -> dict[str, Any]:
        """For an artifact's manifest."""
        return {
            **self.measured.plain(),
            "thresholds": None if self.thresholds is None else asdict(self.thresholds),
        }


def judge(engine: Engine, document: Document, artifact: Artifact, config: AdmissionConfig) -> Verdict:
    """Test an artifact of ``document`` and compare with the thresholds for its model and compiler.

    Where none are calibrated nothing is refused, and the verdict says so.
    """
    test = SelfTest.of(engine, document, config)
    with engine.attached(artifact, keep=False) as handle:
        measured = test.measure(handle)
    limits = thresholds(engine.fingerprint, artifact.manifest.compiler)
    return Verdict(measured, limits, limits.refusal(measured) if limits else "")


def thresholds(fingerprint: str, compiler: str) -> Thresholds | None:
    """The calibrated thresholds that ship with memkit for a base model and a compiler, or None."""
    table = json.loads(files("memkit.pipeline").joinpath("thresholds.json").read_text())
    row = table.get(fingerprint, {}).get(compiler)
    return None if row is None else parse_thresholds(row)


def parse_thresholds(row: Any) -> Thresholds:
    """Thresholds from JSON. Raises `ConfigError` for anything else."""
    known = {f.name for f in fields(Thresholds)}
    if not isinstance(row, dict) or set(row) != known:
        raise ConfigError(f"thresholds are an object with exactly {', '.join(sorted(known))}")
    try:
        return Thresholds(**row)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"not thresholds: {error}") from error
