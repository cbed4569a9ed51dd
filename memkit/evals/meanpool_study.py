"""``memkit eval --study meanpool``: the mean-pool compressor after each stage of its training.

The row ``cpt`` has the reconstruction score (ROUGE-1 F1); ``sft`` and ``rl`` have the retention, the gain by
reinforcement learning, and how often answers quote the source (implicit expansion, §5.1).
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memkit.compilers.meanpool import checkpoint
from memkit.compilers.meanpool.evaluate import Evaluator, question_answering, reconstruction
from memkit.compilers.meanpool.model import Compressor
from memkit.compilers.meanpool.texts import Question, Text
from memkit.engine.transformers.decoder_checkpoint import DecoderCheckpoint
from memkit.errors import ConfigError
from memkit.evals import records
from memkit.evals.reports.plots import figure_of, heat_map, inline
from memkit.evals.reports.study_html import section, shell
from memkit.evals.timing import stamp
from memkit.models.loading import LoadedModel, load
from memkit.models.nano.documents import Document as GeneratedDocument
from memkit.models.nano.documents import Generator

Progress = Callable[[str, int, int], None]
STAGES = (
    ("checkpoint", "checkpoint", "{}"),
    ("nominal_ratio", "nominal", "{:g}×"),
    ("effective_ratio", "effective", "{:g}×"),
    ("n", "n", "{}"),
    ("rouge1", "ROUGE-1 F1", "{:.3f}"),
    ("contains", "contains", "{:.3f}"),
    ("full", "full context", "{:.3f}"),
    ("retention", "retention", "{:.3f}"),
    ("gain_over_sft_points", "points over SFT", "{:+.1f}"),
    ("expansion_rate", "quotes the source", "{:.3f}"),
)
FACTS = (8, 16, 32, 64)  # of documents, about 20 tokens each; up to 16 in training
LENGTHS, DEPTHS = (64, 128, 256, 512), (0.0, 0.25, 0.5, 0.75, 1.0)  # tokens of haystacks; depths of needles


@dataclass(frozen=True)
class MeanPoolStudy:
    """What to measure: records of ``source``, with the checkpoints for ``model`` at ``ratio``."""

    source: str
    model: str = "nano"
    ratio: float = 16.0
    limit: int | None = None
    questions: int | None = None
    seed: int = 0
    needles: int = 0  # needles in a haystack for each length and depth; 0: none
    documents: int = 0  # for each number of facts in `FACTS`; 0: none


def study(config: MeanPoolStudy, progress: Progress = lambda label, done, total: None) -> dict[str, Any]:
    """Measure the stages; returns ``{"model", "seed", "rows": [...]}``.

    A stage without its own checkpoint is measured on a later one: SFT's weights are those of an RL checkpoint
    without its separate decoder. Every row names its checkpoint. Raises `ConfigError` without a checkpoint.
    """
    chosen = records.load(config.source, config.limit, config.seed, config.questions)
    texts = [Text(r.context, "", tuple(Question(q.text, q.answers) for q in r.questions)) for r in chosen]
    base, rows = load(config.model), list[dict[str, Any]]()
    candidates = checkpoint.candidates(base, int(config.ratio))
    if not candidates:
        raise ConfigError(
            f"there is no mean-pool checkpoint for {config.model} at {config.ratio:g}x; train one: memkit "
            "train-compressor"
        )
    stages = (("cpt", ("cpt2", "cpt1", "sft", "rl")), ("sft", ("sft", "rl")), ("rl", ("rl",)))
    for number, (row, wanted) in enumerate(stages):
        progress(f"stage {row}", number, len(stages))
        used = next((c for stage in wanted for c in candidates if c.about["stage"] == stage), None)
        if used is not None:
            rows.append(_row(row, used, base, texts, config.seed))
    add_gain(rows)
    table: dict[str, Any] = {"model": config.model, "source": config.source, "seed": config.seed}
    table |= {"study": "meanpool", "ratio": config.ratio, **stamp(), "rows": rows}
    if config.needles or config.documents:
        progress("lengths and needles", len(stages), len(stages))
        latest = _frozen(checkpoint.load(candidates[0], base))
        facts = FACTS if config.documents else ()
        table["lengths"] = by_length(latest, facts, config.documents, config.seed)
        table["needles"] = needles(latest, LENGTHS, DEPTHS, config.needles, config.seed)
    return table


def _row(
    row: str, used: DecoderCheckpoint, base: LoadedModel, texts: Sequence[Text], seed: int
) -> dict[str, Any]:
    compressor = checkpoint.load(used, base)
    if row != "rl":
        compressor.decoder = compressor.encoder  # drops the decoder of reinforcement learning
    evaluator = Evaluator(_frozen(compressor))
    about = {
        "row": row,
        "checkpoint": used.label,
        "nominal_ratio": compressor.config.nominal_ratio,
        "effective_ratio": round(compressor.config.effective_ratio, 3),
    }
    if row == "cpt":
        queue = iter(texts)
        return about | reconstruction(evaluator, lambda rng, task, reached: next(queue), len(texts), seed)
    return about | question_answering(evaluator, texts)


def _frozen(compressor: Compressor) -> Compressor:
    compressor.frozen()
    return compressor


def add_gain(rows: Sequence[dict[str, Any]]) -> None:
    """Add to the row ``rl`` its gain over ``sft``, in percentage points of correct answers."""
    by_name = {row["row"]: row for row in rows}
    if {"sft", "rl"} <= set(by_name):
        by_name["rl"]["gain_over_sft_points"] = 100 * (by_name["rl"]["contains"] - by_name["sft"]["contains"])


def by_length(compressor: Compressor, facts: Sequence[int], count: int, seed: int) -> list[dict[str, Any]]:
    """Question answering on ``count`` documents for each number of facts, beyond the lengths of training."""
    evaluator, rows = Evaluator(compressor), list[dict[str, Any]]()
    for number in facts:
        generator = Generator(seed + 9_000_000 + number, "eval")
        texts = [_text(generator, generator.document(number, max(2, number // 4))) for _ in range(count)]
        tokens = sum(len(evaluator.encode(text.text)) for text in texts) / count
        rows.append({"facts": number, "tokens": round(tokens), **question_answering(evaluator, texts)})
    return rows


def _text(generator: Generator, document: GeneratedDocument) -> Text:
    questions = tuple(Question(q.text, (q.answer,)) for q in generator.questions(document))
    return Text(document.text, "", questions)


def needles(
    compressor: Compressor, lengths: Sequence[int], depths: Sequence[float], count: int, seed: int
) -> list[dict[str, Any]]:
    """Needle in a haystack: one fact at a depth (0 start, 1 end) in ``length`` tokens of filler sentences."""
    evaluator, rows = Evaluator(compressor), list[dict[str, Any]]()
    for length in lengths:
        for depth in depths:
            right, full = 0.0, 0.0
            for number in range(count):
                generator = Generator(seed * 1_000_003 + number, "eval")
                document = generator.document(1, 1)
                (fact,), needle = document.facts, document.text
                hay = list[str]()
                while len(evaluator.encode(" ".join([*hay, needle]))) < length:
                    hay.append(generator.filler())
                hay.insert(round(depth * len(hay)), needle)
                text, about = " ".join(hay), generator.about(fact)
                ids, question = evaluator.encode(text), [Question(about.text, (about.answer,))]
                right += evaluator.answers(evaluator.memory(ids), text, question)[0].right
                full += evaluator.answers(evaluator.full(ids), text, question)[0].right
            rows.append(
                {"length": length, "depth": depth, "right": right / count, "full": full / count, "n": count}
            )
    return rows


def curves(points: Sequence[tuple[str, int, float]], title: str) -> str:
    """A plot of a stage's series by step, as an SVG; those of held-out texts are dashed."""

    def draw(axes: Any) -> None:
        for name in dict.fromkeys(series for series, _, _ in points):
            line = [(step, value) for series, step, value in points if series == name]
            style = "--" if name.startswith("held out") else "-"
            axes.plot([s for s, _ in line], [v for _, v in line], style, label=name)
        axes.set(xlabel="step", ylabel="nats per token (rewards: share)", title=title)
        axes.legend(fontsize="x-small")
        axes.grid(alpha=0.3)

    return figure_of(draw, salt="meanpool")


def needle_plot(rows: Sequence[dict[str, Any]]) -> str:
    """A heat map of needles found, by depth and length, as an SVG."""

    shares = {(r["length"], 100 * r["depth"]): r["right"] for r in rows}
    return figure_of(lambda axes: heat_map(axes, shares, "tokens"), (6, 3.5), salt="meanpool")


def length_plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """A plot of correct answers with a memory, the full text and neither, by length, as an SVG."""

    def draw(axes: Any) -> None:
        tokens = [row["tokens"] for row in rows]
        for key, label in (("contains", "memory"), ("full", "full text"), ("none", "nothing")):
            axes.plot(tokens, [row[key] for row in rows], marker="o", label=label)
        axes.set(xscale="log", xticks=tokens, xlabel="tokens", ylabel="correct answers", ylim=(0, 1))
        axes.set_xticklabels([f"{n:,}" for n in tokens])
        axes.minorticks_off()
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)

    return figure_of(draw, (6, 3.5), salt="meanpool")


def needle_page(table: Mapping[str, Any]) -> str:
    """An HTML page with the stages and the plots of lengths and needles."""
    title = f"Mean-pool compressor of {table['model']} at {table['ratio']:g}x"
    about = f"Measured on {table['source']}, seed {table['seed']}, {table['machine']}, {table['date']}."
    stages = [(str(row["row"]), row) for row in table["rows"]]
    body = f"<p>{html.escape(about)}</p>{section('Stages', 'stage', stages, '', STAGES)}"
    if table.get("lengths"):
        body += f"<h2>Answers, by length</h2>{inline(length_plot(table['lengths']))}"
    if table.get("needles"):
        plot = inline(needle_plot(table["needles"]))
        body += f"<h2>Needles found, by depth and length</h2>{plot}"
    return shell(title, body)
