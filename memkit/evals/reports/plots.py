"""Plots as inline SVG. They need matplotlib (the extra ``eval``)."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from memkit.errors import MissingExtraError, install_line


def figure_of(
    draw: Callable[[Any], None], size: tuple[float, float] = (7, 3.5), panels: int = 1, salt: str = "memkit"
) -> str:
    """The SVG that ``draw`` makes on matplotlib's axes, or with ``panels`` > 1 on a list of them.

    ``size`` is in inches. Each SVG of a page needs its own ``salt``, from which its ids are made. Raises
    `MissingExtraError` without matplotlib.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", install_line("eval")) from error
    with rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        figure, buffer = Figure(figsize=size, layout="constrained"), io.StringIO()
        draw(figure.subplots() if panels == 1 else list(figure.subplots(1, panels)))
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def inline(svg: str) -> str:
    """The SVG as an element of a page."""
    return svg[svg.index("<svg") :]


def heat_map(axes: Any, shares: Mapping[tuple[float, float], float], unit: str) -> None:
    """Draw the shares of needles found, by (length, depth in percent); lengths are in ``unit``."""
    lengths, depths = sorted({length for length, _ in shares}), sorted({depth for _, depth in shares})
    grid = [[shares.get((length, depth), float("nan")) for length in lengths] for depth in depths]
    image = axes.imshow(grid, vmin=0, vmax=1, aspect="auto", cmap="RdYlGn")
    axes.set(xticks=range(len(lengths)), xticklabels=[f"{length:g}" for length in lengths], xlabel=unit)
    axes.set(yticks=range(len(depths)), yticklabels=[f"{depth:g} %" for depth in depths])
    axes.set(ylabel="depth of the needle")
    for y, line in enumerate(grid):
        for x, value in enumerate(line):
            if value == value:  # not a gap
                ink = "black" if 0.15 < value < 0.85 else "white"  # the ends of the scale are dark
                axes.text(x, y, f"{value:.2f}", ha="center", va="center", fontsize="small", color=ink)
    axes.figure.colorbar(image, ax=axes, label="found")


def by_ratio(axes: Any, rows: Sequence[Mapping[str, Any]], name: str, colours: Mapping[str, str]) -> None:
    """Plot a figure with its 95 % interval by ratio, a line for each method; without a ratio a dashed
    level."""
    known = [row for row in rows if row[name] is not None]
    for method, colour in colours.items():
        of_method = [row for row in known if row["method"] == method]
        for row in of_method:
            if row["ratio"] is None:
                axes.axhline(row[name], linestyle="--", color=colour, label=method)
        drawn = [row for row in of_method if row["ratio"] is not None]
        if drawn:
            ratios, values = [row["ratio"] for row in drawn], [row[name] for row in drawn]
            bars = list(zip(*(bar(row, name) for row in drawn), strict=True))
            axes.errorbar(ratios, values, yerr=bars, fmt="o-", capsize=4, color=colour, label=method)
    ratios = sorted({row["ratio"] for row in rows if row["ratio"] is not None})
    axes.set_xscale("log", base=2)
    axes.set(xlabel="ratio", ylabel=name, xticks=ratios, xticklabels=[f"{ratio:g}×" for ratio in ratios])
    axes.grid(axis="y", alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")


def bar(row: Mapping[str, Any], name: str) -> tuple[float, float]:
    """The lengths of the error bar below and above the figure; 0 without an interval."""
    low, high = row[f"{name}_ci95"] or (row[name], row[name])
    return max(row[name] - low, 0), max(high - row[name], 0)
