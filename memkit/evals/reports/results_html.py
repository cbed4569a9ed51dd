"""A self-contained HTML report of an evaluation: figures with intervals, plots, and every question.

Questions that a memory lost come first, with the answer of each method.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from memkit.evals.formats.niah import place
from memkit.evals.reports.markdown import COLUMNS, Column, cell, columns_of, introduction
from memkit.evals.reports.plots import by_ratio, figure_of, heat_map, inline
from memkit.evals.reports.study_html import RETENTION, section, shell

LOST = 0.9  # share of the full context's score below which a method lost the question
LISTED = 200  # questions shown of each group
MEASURED = (
    "n em f1 f1_ci95 contains contains_ci95 metric score score_ci95 agreement agreement_ci95 "
    "agreement_f1 agreement_f1_ci95 retention retention_ci95 retention_f1 retention_f1_ci95 "
    "kl kl_ci95 drift_kl drift_points compile_s prompt_tokens ttft_ms"
).split()
BY_CATEGORY = "n f1 f1_ci95 metric score score_ci95 retention retention_ci95".split()
STYLE = """
.asked td { white-space: normal; text-align: left; vertical-align: top; min-width: 7rem; }
.asked td:first-child { min-width: 16rem; } .asked th { text-align: left; }
.right { color: #1a6b33; } .wrong { color: #a3211b; }
@media (prefers-color-scheme: dark) { .right { color: #7fd69a; } .wrong { color: #ff9d94; } }
"""
Question = Mapping[str, Any]  # an entry of `memkit.evals.journal.transcript`


def results_page(report: Mapping[str, Any]) -> str:
    """The whole page, without external resources. Raises `MissingExtraError` without matplotlib."""
    rows, categories = report["rows"], report["categories"]
    parts = [
        section(
            "Methods",
            "method",
            [(label(r), r) for r in rows],
            _by_ratio(rows),
            _chosen(columns_of(rows), MEASURED),
        )
    ]
    places = _heat_maps(categories)
    if places:
        parts.append(f"<section><h2>Needles found, by depth and length</h2>{places}</section>")
    elif categories:
        named = [(f"{row['category']}: {label(row)}", row) for row in categories]
        parts.append(section("By category of question", "category", named, "", _chosen(COLUMNS, BY_CATEGORY)))
    parts += _questions(report["asked"])
    about = f"<p>{html.escape(introduction(report))} {RETENTION}</p>"
    return shell(f"{report['model']} on {report['source']}", about + "".join(parts), STYLE)


def _chosen(columns: Sequence[Column], names: Sequence[str]) -> list[Column]:
    return [column for column in columns if column[0] in names]


def label(row: Mapping[str, Any]) -> str:
    """A method with its ratio."""
    return f"{row['method']} {row['ratio']:g}×" if row["ratio"] is not None else str(row["method"])


def _by_ratio(rows: Sequence[Mapping[str, Any]]) -> str:
    methods = dict.fromkeys(row["method"] for row in rows)
    colours = {method: f"C{number % 10}" for number, method in enumerate(methods)}  # matplotlib's ten
    memories = [row for row in rows if row["method"] not in ("full", "none")]

    def draw(panels: list[Any]) -> None:
        by_ratio(panels[0], rows, "score", colours)
        by_ratio(panels[1], memories, "retention", colours)

    return inline(figure_of(draw, (11, 3.5), panels=2, salt="ratio"))


def _heat_maps(categories: Sequence[Mapping[str, Any]]) -> str:
    """A heat map of length and depth for each method; "" for an evaluation without needles."""
    cells_by_method = dict[str, dict[tuple[float, float], float]]()
    for row in categories:
        where = place(row["category"])
        if where is not None and row["score"] is not None:
            cells_by_method.setdefault(label(row), {})[where] = row["score"]
    return "".join(
        f"<h3>{html.escape(name)}</h3>"
        + inline(figure_of(partial(heat_map, shares=cells, unit="words"), (6, 3), salt=name))
        for name, cells in cells_by_method.items()
    )


def _questions(questions: Sequence[Question]) -> list[str]:
    """The questions in three groups, those lost by a memory first."""
    groups: dict[str, list[Question]] = {
        "Lost by a memory": [],
        "Kept by every memory": [],
        "Failed by all": [],
    }
    for question in questions:
        groups[_group(question)].append(question)
    return [
        f"<section><h2>{title} ({len(group)})</h2>{_listed(group)}</section>"
        for title, group in groups.items()
        if group
    ]


def _group(question: Question) -> str:
    scores = {answer["method"]: answer["score"] for answer in question["said"] if answer["ratio"] is None}
    memories = [answer["score"] for answer in question["said"] if answer["method"] not in ("full", "none")]
    best = scores.get("full") or max(memories, default=0.0)
    if best == 0:
        return "Failed by all"
    return "Lost by a memory" if any(s < LOST * best for s in memories) else "Kept by every memory"


def _listed(questions: Sequence[Question]) -> str:
    shown = questions[:LISTED]
    methods = list(dict.fromkeys(label(answer) for question in shown for answer in question["said"]))
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("question", "gold", *methods))
    body = "".join(_row(question, methods) for question in shown)
    more = f"<p>{len(questions) - LISTED} more are not shown.</p>" if len(questions) > LISTED else ""
    table = f'<table class="asked"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="wide">{table}</div>{more}'


def _row(question: Question, methods: Sequence[str]) -> str:
    answers = {label(one): one for one in question["said"]}
    about = " · ".join(part for part in (question["record"], question["category"]) if part)
    cells = [
        f"{html.escape(question['question'])}<br><small>{html.escape(about)}</small>",
        html.escape(" / ".join(question["gold"])),
        *(_answer(answers.get(name), question["metric"]) for name in methods),
    ]
    return f"<tr>{''.join(f'<td>{text}</td>' for text in cells)}</tr>"


def _answer(answer: Mapping[str, Any] | None, metric: str) -> str:
    """A method's answer, marked as right or wrong, or with its score if the metric is not binary."""
    if answer is None:
        return "–"
    text = html.escape(answer["answer"] or "(nothing)")
    if metric not in ("contains", "em"):
        return f"<small>{cell(answer['score'], '{:.2f}')}</small> {text}"
    right = answer["score"] == 1
    return f'<span class="{"right" if right else "wrong"}">{"✓" if right else "✗"} {text}</span>'
