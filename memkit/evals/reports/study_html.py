"""A self-contained HTML report of studies: a table with intervals and a plot for each."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from typing import Any

from memkit.evals.lcc_studies import Study
from memkit.evals.reports.markdown import COLUMNS, Column, cell
from memkit.evals.reports.plots import bar, figure_of, inline

COLOUR = "#1f5fa8"
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1c; }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .875rem; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } svg { max-width: 100%; height: auto; }
@media (prefers-color-scheme: dark) {
  body { background: #16181b; color: #e8e8e8; } th, td { border-color: #3a3d41; } svg { background: #fff; } }
"""
RETENTION = (
    "Retention is (score − none) / (full − none), where the score is contains unless the metric says "
    "otherwise. Intervals are of 95 %: Wilson's of shares, bootstrapped over records of all else. KL is in "
    "nats per answer token against the full context."
)
SHOWN = (
    "n em f1 contains contains_ci95 retention retention_ci95 kl drift_kl drift_points compile_s "
    "compile_flops prompt_tokens"
).split()


def page(report: dict[str, Any], studies: Sequence[Study], title: str) -> str:
    """The whole page, without external resources."""
    rows = {(row["method"], row["ratio"]): row for row in report["rows"]}
    about = (
        f"Model {report['model']}, source {report['source']}, {report['records']} records, seed "
        f"{report['seed']}, measured on {report['machine']}, {report['date']}."
    )
    bounds = [rows[key] for key in (("full", None), ("none", None)) if key in rows]
    columns = [column for column in COLUMNS if column[0] in SHOWN]
    parts = [section("Bounds", "method", [(r["method"], r) for r in bounds], "", columns)]
    for study in studies:
        measured = [
            (v.label.partition(": ")[2], rows[v.label, v.ratio])
            for v in study.variants
            if (v.label, v.ratio) in rows
        ]
        if measured:
            parts.append(section(study.title, study.axis, measured, plot(measured, study.axis), columns))
    return shell(title, f"<p>{html.escape(about)} {RETENTION}</p>" + "".join(parts))


def shell(title: str, body: str, style: str = "") -> str:
    """An HTML page around ``body``, with inline style."""
    head = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{head}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}{style}</style></head><body><h1>{head}</h1>{body}</body></html>\n"
    )


def section(
    title: str,
    axis: str,
    rows: Sequence[tuple[str, dict[str, Any]]],
    figure: str,
    columns: Sequence[Column],
) -> str:
    """A title, a table with these columns, and a figure; ``axis`` is the heading of the row labels."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in [axis, *(t for _, t, _ in columns)])
    body = "".join(
        f"<tr><td>{html.escape(label)}</td>"
        + "".join(f"<td>{html.escape(cell(row.get(k), f))}</td>" for k, _, f in columns)
        + "</tr>"
        for label, row in rows
    )
    table = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    return f"<section><h2>{html.escape(title)}</h2>{table}{figure}</section>"


def plot(rows: Sequence[tuple[str, dict[str, Any]]], axis: str) -> str:
    """A plot of retention with its interval, next to the KL, by label, as inline SVG.

    Raises `MissingExtraError` without matplotlib.
    """
    drawn = [(label, row) for label, row in rows if row["retention"] is not None]
    if not drawn:
        return ""
    names = [textwrap.fill(label, max(60 // len(drawn), 8), break_long_words=False) for label, _ in drawn]

    def draw(panels: list[Any]) -> None:
        axes, beside = panels
        for x, (_, row) in enumerate(drawn):
            bars = [[length] for length in bar(row, "retention")]
            axes.errorbar([x], [row["retention"]], yerr=bars, fmt="o", color=COLOUR, capsize=4)
        axes.set(ylabel="retention", ylim=(min(-0.05, axes.get_ylim()[0]), max(1.05, axes.get_ylim()[1])))
        beside.plot([row["kl"] for _, row in drawn], "o", color=COLOUR)
        beside.set(ylabel="KL, nats per token", yscale="log")
        for panel in panels:
            panel.set(xticks=range(len(drawn)), xticklabels=names, xlabel=axis)
            panel.tick_params(axis="x", labelsize="small")
            panel.margins(x=0.1)
            panel.grid(axis="y", alpha=0.3)

    return inline(figure_of(draw, (11, 3), panels=2, salt=axis))
