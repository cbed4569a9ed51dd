"""``memkit eval --study meanpool``: the mean-pool compressor's training, stage by stage.

The row ``cpt`` has the reconstruction (ROUGE-1 F1), ``sft`` and ``rl`` what is kept of the full context's
answers, what reinforcement learning gained and how often answers quote the source (implicit expansion, §5.1).
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
FACTS = (8, 16, 32, 64)  # of documents that get longer than those of training, of some 20 tokens a fact
LENGTHS, DEPTHS = (64, 128, 256, 512), (0.0, 0.25, 0.5, 0.75, 1.0)  # of haystacks, in tokens; of needles


@dataclass(frozen=True)
class MeanPoolStudy:
    """What to measure: records of ``source`` with checkpoints for ``model`` at ``ratio``."""

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

    A stage without a checkpoint of its own is measured on what a later one holds of it: SFT's weights are
    those of an RL checkpoint without its decoder. Every row says which checkpoint it is about.
    """
    chosen = records.load(config.source, config.limit, config.seed, config.questions)
    texts = [Text(r.context, "", tuple(Question(q.text, q.answers) for q in r.questions)) for r in chosen]
    base, rows = load(config.model), list[dict[str, Any]]()
    found = checkpoint.candidates(base, int(config.ratio))
    if not found:
        raise ConfigError(
            f"there is no mean-pool checkpoint for {config.model} at {config.ratio:g}x; train one: memkit "
            "train-compressor"
        )
    stages = (("cpt", ("cpt2", "cpt1", "sft", "rl")), ("sft", ("sft", "rl")), ("rl", ("rl",)))
    for number, (row, wanted) in enumerate(stages):
        progress(f"stage {row}", number, len(stages))
        used = next((c for stage in wanted for c in found if c.about["stage"] == stage), None)
        if used is not None:
            rows.append(_row(row, used, base, texts, config.seed))
    gained(rows)
    table: dict[str, Any] = {"model": config.model, "source": config.source, "seed": config.seed}
    table |= {"study": "meanpool", "ratio": config.ratio, **stamp(), "rows": rows}
    if config.needles or config.documents:
        progress("lengths and needles", len(stages), len(stages))
        furthest = _frozen(checkpoint.load(found[0], base))
        facts = FACTS if config.documents else ()
        table["lengths"] = by_length(furthest, facts, config.documents, config.seed)
        table["needles"] = needles(furthest, LENGTHS, DEPTHS, config.needles, config.seed)
    return table


def _row(
    row: str, used: DecoderCheckpoint, base: LoadedModel, texts: Sequence[Text], seed: int
) -> dict[str, Any]:
    compressor = checkpoint.load(used, base)
    if row != "rl":
        compressor.decoder = compressor.encoder  # without what reinforcement learning added
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


def gained(rows: Sequence[dict[str, Any]]) -> None:
    """Add to the row ``rl`` what it gained over ``sft``, in points of answers that are right."""
    by_name = {row["row"]: row for row in rows}
    if {"sft", "rl"} <= set(by_name):
        by_name["rl"]["gain_over_sft_points"] = 100 * (by_name["rl"]["contains"] - by_name["sft"]["contains"])


def by_length(compressor: Compressor, facts: Sequence[int], count: int, seed: int) -> list[dict[str, Any]]:
    """Answers about documents of more and more facts: what a memory keeps beyond the lengths of training."""
    evaluator, rows = Evaluator(compressor), list[dict[str, Any]]()
    for number in facts:
        made = Generator(seed + 9_000_000 + number, "eval")
        texts = [_text(made, made.document(number, max(2, number // 4))) for _ in range(count)]
        tokens = sum(len(evaluator.encode(text.text)) for text in texts) / count
        rows.append({"facts": number, "tokens": round(tokens), **question_answering(evaluator, texts)})
    return rows


def _text(made: Generator, document: GeneratedDocument) -> Text:
    asked = tuple(Question(q.text, (q.answer,)) for q in made.questions(document))
    return Text(document.text, "", asked)


def needles(
    compressor: Compressor, lengths: Sequence[int], depths: Sequence[float], count: int, seed: int
) -> list[dict[str, Any]]:
    """A needle in a haystack: one fact at a ``depth`` (0 start, 1 end) of ``length`` tokens of fillers."""
    evaluator, rows = Evaluator(compressor), list[dict[str, Any]]()
    for length in lengths:
        for depth in depths:
            right, full = 0.0, 0.0
            for number in range(count):
                made = Generator(seed * 1_000_003 + number, "eval")
                document = made.document(1, 1)
                (fact,), needle = document.facts, document.text
                hay = list[str]()
                while len(evaluator.encode(" ".join([*hay, needle]))) < length:
                    hay.append(made.filler())
                hay.insert(round(depth * len(hay)), needle)
                text, asked = " ".join(hay), made.about(fact)
                ids, question = evaluator.encode(text), [Question(asked.text, (asked.answer,))]
                right += evaluator.answers(evaluator.memory(ids), text, question)[0].right
                full += evaluator.answers(evaluator.full(ids), text, question)[0].right
            rows.append(
                {"length": length, "depth": depth, "right": right / count, "full": full / count, "n": count}
            )
    return rows


def curves(points: Sequence[tuple[str, int, float]], title: str) -> str:
    """Every series of a stage by step, as an SVG; those of held-out texts are dashed."""

    def draw(axes: Any) -> None:
        for name in dict.fromkeys(series for series, _, _ in points):
            mine = [(step, value) for series, step, value in points if series == name]
            style = "--" if name.startswith("held out") else "-"
            axes.plot([s for s, _ in mine], [v for _, v in mine], style, label=name)
        axes.set(xlabel="step", ylabel="nats a token (rewards: share)", title=title)
        axes.legend(fontsize="x-small")
        axes.grid(alpha=0.3)

    return figure_of(draw, salt="meanpool")


def needle_plot(rows: Sequence[dict[str, Any]]) -> str:
    """Depth against length, as an SVG."""

    found = {(r["length"], 100 * r["depth"]): r["right"] for r in rows}
    return figure_of(lambda axes: heat_map(axes, found, "tokens"), (6, 3.5), salt="meanpool")


def length_plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """What is answered behind a memory and behind the whole text, by the text's tokens, as an SVG."""

    def draw(axes: Any) -> None:
        tokens = [row["tokens"] for row in rows]
        for key, label in (("contains", "memory"), ("full", "whole text"), ("none", "nothing")):
            axes.plot(tokens, [row[key] for row in rows], marker="o", label=label)
        axes.set(xscale="log", xticks=tokens, xlabel="tokens", ylabel="answers that are right", ylim=(0, 1))
        axes.set_xticklabels([f"{n:,}" for n in tokens])
        axes.minorticks_off()
        axes.legend(fontsize="small")
        axes.grid(alpha=0.3)

    return figure_of(draw, (6, 3.5), salt="meanpool")


def needle_page(table: Mapping[str, Any]) -> str:
    """A page of its own with the stages and the plots of lengths and needles."""
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
