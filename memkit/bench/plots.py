"""Plot the ratios that benchmarks measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memkit.errors import ConfigError
from memkit.evals.reports.plots import figure_of


@dataclass(frozen=True)
class Bars:
    """A bar plot of a benchmark: a bar for each of the ``columns`` (with its label) of each row."""

    columns: Mapping[str, str]
    axis: str
    peer: str | None = None  # the reference at 1
    log: bool = False


BENCHES: Mapping[str, Bars] = {
    "bank": Bars({"rate_to_raw": "memkit"}, "operations per second", "raw files and SQLite"),
    "compile": Bars({"of_rate": "whole compilation"}, "share of the matrix rate", "a matrix product"),
    "compact": Bars(
        {"first_ratio": "first token", "answer_ratio": "answer"}, "times faster", "the prefilled text"
    ),
    "gate": Bars(
        {"ms_ratio_to_prefill": "time", "flops_ratio_to_prefill": "FLOPs"},
        "cost",
        "reading one text",
        log=True,
    ),
    "route": Bars(
        {"ratio_to_faiss_p50": "time", "recall_ratio_to_faiss": "recall", "bytes_ratio_to_faiss": "bytes"},
        "ratio",
        "raw FAISS",
    ),
    "serve": Bars({"ratio_cold": "first use", "ratio_warm": "in use"}, "times faster", "reading the text"),
    "start": Bars({"extra_ms": "memkit"}, "ms more than bare Python"),
    "step": Bars({"of_rate": "step"}, "share of the matrix rate", "a matrix product"),
    "ttft": Bars(
        {"ratio": "from the bank", "warm_ratio": "attached", "ideal": "FLOPs"},
        "times faster",
        "the text",
        log=True,
    ),
}


def bars(result: Mapping[str, Any]) -> str:
    """A benchmark's rows as an SVG. Raises `ConfigError` for a benchmark without a plot."""
    kind = BENCHES.get(result["bench"])
    rows = [row for row in result["rows"] if kind and any(row.get(key) is not None for key in kind.columns)]
    if kind is None or not rows:
        names = ", ".join(BENCHES)
        raise ConfigError(f"nothing of this can be drawn: --plot is for the ratios of bench {names}")
    height = 0.8 / len(kind.columns)

    def draw(axes: Any) -> None:
        for i, (key, name) in enumerate(kind.columns.items()):
            places = [(y + i * height, row[key]) for y, row in enumerate(rows) if row.get(key) is not None]
            names = axes.barh([y for y, _ in places], [x for _, x in places], height, label=name)
            axes.bar_label(names, fmt="%.3g", padding=2, fontsize="small")
        if kind.peer:
            axes.axvline(1, color="black", linestyle="--", linewidth=1, label=f"{kind.peer} = 1")
        middle = (len(kind.columns) - 1) * height / 2
        axes.set_yticks([y + middle for y in range(len(rows))], [str(row["row"]) for row in rows])
        axes.set(
            xlabel=kind.axis, title=f"memkit bench {result['bench']}, {result['machine']}", ylim=(None, None)
        )
        axes.set_xscale("log" if kind.log else "linear")
        axes.invert_yaxis()
        axes.margins(x=0.15)
        axes.legend(fontsize="small")

    return figure_of(draw, (7, 1.2 + 0.35 * len(rows) * max(len(kind.columns), 2)))
