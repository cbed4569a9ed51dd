"""The figure of the README, from measurements on SmolLM2 and Qwen2.5-Coder.

    python -m memkit.evals.reports.why results OUT.svg

Left, the time to first token behind an artifact and behind the whole text; right, the share of right answers,
with the tokens of the prompt of each method.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memkit.evals.reports.plots import bar, figure_of

SPEED, ANSWERS = "7-smollm2-first-token.json", "27-qwen15-squad.json"
METHODS = {
    ("full", None): "whole text",
    ("compact", 8.0): "artifact, 8×",
    ("rag", 8.0): "text retrieval, 8×",
    ("none", None): "no memory",
}
COLOURS = {
    "full": "#9e9e9e",
    "rag": "#757575",
    "compact": "#3f51b5",
    "none": "#cfcfcf",
}


def figure(results: Path) -> str:
    """The SVG, from the files in ``results``. Raises `MissingExtraError` without matplotlib."""
    speed, answers = (json.loads((results / name).read_text()) for name in (SPEED, ANSWERS))

    def draw(axes: Sequence[Any]) -> None:
        _first_token(axes[0], speed["rows"])
        axes[0].set_title(f"Time to first token, SmolLM2-135M, {speed['machine']}", fontsize="medium")
        _answers(axes[1], {(row["method"], row["ratio"]): row for row in answers["rows"]})
        axes[1].set_title(
            f"Answers on {answers['records']} paragraphs of SQuAD, Qwen2.5-Coder-1.5B", fontsize="medium"
        )

    return figure_of(draw, (10, 3.8), panels=2, salt="why")


def _first_token(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    for key, method, shift in (("full_ms", "full", -0.2), ("cold_ms", "compact", 0.2)):
        label = "reading the whole text" if method == "full" else "from an artifact in the bank (16×)"
        places = [place + shift for place in range(len(rows))]
        drawn = axes.bar(places, [row[key] / 1e3 for row in rows], 0.4, label=label, color=COLOURS[method])
        axes.bar_label(drawn, [f"{row[key] / 1e3:.3g} s" for row in rows], padding=2, fontsize="small")
    axes.set_xticks(
        range(len(rows)), [f"{row['row']}\n{row['ratio']:.0f}× faster" for row in rows], fontsize="small"
    )
    axes.set(ylabel="seconds, logarithmic", yscale="log", ylim=(0.1, 2000))
    axes.legend(fontsize="small", loc="upper left")


def _answers(axes: Any, rows: Mapping[tuple[str, float | None], Mapping[str, Any]]) -> None:
    shown = [rows[key] for key in METHODS]
    for place, row in enumerate(shown):
        low, high = bar(row, "contains")
        axes.barh(
            place,
            100 * row["contains"],
            xerr=[[100 * low], [100 * high]],
            color=COLOURS[row["method"]],
            capsize=3,
        )
        end = 100 * (row["contains"] + high)
        axes.text(end + 1.5, place, f"{100 * row['contains']:.1f} %", va="center", fontsize="small")
    names = [
        f"{name}\n{row['prompt_tokens']:.0f} tokens"
        for name, row in zip(METHODS.values(), shown, strict=True)
    ]
    axes.set_yticks(range(len(shown)), names, fontsize="small")
    axes.set(
        xlabel=f"% of {shown[0]['n']} answers with the gold answer (95 % CI)",
        xlim=(0, 100),
    )
    axes.invert_yaxis()


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(figure(Path(sys.argv[1])))
