"""Print RESULTS.md from the JSON files of evaluations: ``memkit eval results --report``.

The folder holds the output of ``memkit eval --json``, ``memkit bench --json`` and the evaluation of nano. The
report is fully determined by these files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from memkit.errors import ConfigError
from memkit.evals.records import NO_DRIFT, QUESTION

HEAD = """# Results

Printed by `memkit eval results --report` from the files in `results/`, which `make results-run` produces.
Retention is (contains - none) / (full - none). Agreement is the share of answers that contain the model's
answer with the full context, right or wrong. KL is in nats per answer token, relative to the full context.
Drift is measured on general questions that the compiler has not seen.
"""
Column = tuple[str, str, str]  # name, title, format
COLUMNS: tuple[Column, ...] = (
    ("method", "method", "{}"),
    ("ratio", "ratio", "{:g}×"),
    ("n", "n", "{}"),
    ("em", "EM", "{:.3f}"),
    ("f1", "F1", "{:.3f}"),
    ("f1_ci95", "95 % CI", "{0[0]:.2f}-{0[1]:.2f}"),
    ("contains", "contains", "{:.3f}"),
    ("contains_ci95", "95 % CI", "{0[0]:.2f}-{0[1]:.2f}"),
    ("rouge_l", "ROUGE-L", "{:.3f}"),
    ("rouge_l_ci95", "95 % CI", "{0[0]:.2f}-{0[1]:.2f}"),
    ("agreement", "agreement", "{:.3f}"),
    ("agreement_ci95", "95 % CI", "{0[0]:.2f}-{0[1]:.2f}"),
    ("agreement_f1", "agreement F1", "{:.3f}"),
    ("agreement_f1_ci95", "95 % CI", "{0[0]:.2f}-{0[1]:.2f}"),
    ("judge", "judge 0-5", "{:.2f}"),
    ("metric", "metric", "{}"),
    ("score", "score", "{:.3f}"),
    ("score_ci95", "95 % CI", "{0[0]:.2f}-{0[1]:.2f}"),
    ("retention", "retention", "{:.3f}"),
    ("retention_ci95", "95 % CI", "{0[0]:.2f}-{0[1]:.2f}"),
    ("retention_f1", "retention of F1", "{:.3f}"),
    ("retention_f1_ci95", "95 % CI", "{0[0]:.2f}-{0[1]:.2f}"),
    ("kl", "KL", "{:.3f}"),
    ("kl_ci95", "95 % CI", "{0[0]:.3f}-{0[1]:.3f}"),
    ("drift_kl", "drift KL", "{:.4f}"),
    ("drift_points", "drift points", "{:.2f}"),
    ("compile_s", "compile s", "{:.1f}"),
    ("compile_flops", "compile FLOPs", "{:.1e}"),
    ("artifact_bytes", "bytes", "{:,.0f}"),
    ("prompt_tokens", "prompt tokens", "{:.0f}"),
    ("ttft_ms", "TTFT ms", "{:.1f}"),
)


SCORE = ("metric", "score", "score_ci95")  # shown only if a metric other than contains counts
OPTIONAL = ("f1_ci95", "rouge_l_ci95")  # missing in older results
RELATIVE = (  # to the full context's answers; shown of results that have all of them
    "agreement_ci95 agreement_f1 agreement_f1_ci95 retention_f1 retention_f1_ci95 kl_ci95"
).split()


def columns_of(rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The columns that these rows need."""
    left_out = [name for name in OPTIONAL if not any(row.get(name) for row in rows)]
    if not any("agreement_f1" in row for row in rows):
        left_out += RELATIVE
    if all(row.get("metric", "contains") == "contains" for row in rows):
        left_out += SCORE
    return [column for column in COLUMNS if column[0] not in left_out]


def cell(value: Any, form: str) -> str:
    """A figure as text; a dash for None."""
    return "–" if value is None else form.format(value)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def answers(name: str, report: dict[str, Any], folder: Path) -> str:
    """The table of one ``memkit eval`` run, with its loss curves."""
    columns = columns_of(report["rows"])
    rows = [[cell(row.get(key), form) for key, _, form in columns] for row in report["rows"]]
    text = f"## {name}\n\n{introduction(report)}\n\n{_table([title for _, title, _ in columns], rows)}\n"
    if report.get("skipped"):
        most = report.get("max_tokens")
        limit = f"{most:,} tokens or the model's window" if most else "the model's window"
        text += f"\nLonger than {limit}, left out: {', '.join(report['skipped'])}.\n"
    failed = [
        f"{r['method']} at {cell(r['ratio'], '{:g}×')}: {r['failed']}" for r in report["rows"] if r["failed"]
    ]
    if failed:
        text += f"\nRecords that could not be compiled: {'; '.join(failed)}.\n"
    text += _predictions(report["rows"]) + _categories(report.get("categories", []))
    plot = plot_curves(name, report, folder)
    return text + (f"\n![Loss curves of {name}]({plot})\n" if plot else "")


def introduction(report: Mapping[str, Any]) -> str:
    """Sentences about the model, the data and the settings of an evaluation."""
    about = (
        f"Model {report['model']}, source {report['source']}, {report['records']} records, "
        f"seed {report['seed']}"
    )
    without = report["general_without_memory"]
    about += "." if without is None else f"; general questions without memory: {without:.3f}."
    if any(row["method"] == "rag" for row in report["rows"]):
        about += f" The baseline rag uses the embedder {report.get('embedder', 'lexical')}."
    if report.get("wording", QUESTION) != QUESTION:
        about += f" Questions are worded as “{report['wording']}”."
    if report.get("drift") == NO_DRIFT:
        about += " Drift was not measured."
    elif report.get("drift"):
        about += f" Drift is measured on questions of {report['drift']}."
    if report.get("machine"):
        about += f" Measured on {report['machine']}, {report['date']}."
    return about


def _categories(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table by category of question; "" without categories."""
    if not rows:
        return ""
    names = ("method", "ratio", "n", "f1", "f1_ci95", *SCORE, "retention", "retention_ci95")
    columns = [("category", "category", "{}"), *(column for column in COLUMNS if column[0] in names)]
    body = [[cell(row.get(key), form) for key, _, form in columns] for row in rows]
    return f"\n{_table([title for _, title, _ in columns], body)}\n"


def _predictions(rows: list[dict[str, Any]]) -> str:
    """A table of each variant's predicted and measured effect, relative to the one without a prediction."""
    predicted = [row for row in rows if row.get("predicted")]
    if not predicted:
        return ""
    key = predicted[0]["method"].partition(":")[0]
    reference = next(r for r in rows if r["method"].startswith(f"{key}:") and not r.get("predicted"))

    def points(row: dict[str, Any]) -> str:
        if row["retention"] is None or reference["retention"] is None:
            return "–"
        return f"{100 * (row['retention'] - reference['retention']):+.1f}"

    body = [
        [
            row["method"].partition(": ")[2],
            row["predicted"],
            points(row),
            f"{row['compile_flops'] / reference['compile_flops']:.2f}",
            cell(row["drift_points"], "{:.2f}"),
        ]
        for row in predicted
    ]
    header = ["changed", "predicted", "retention, points", "FLOPs, relative", "drift points"]
    return f"\nAgainst {reference['method'].partition(': ')[2]}:\n\n{_table(header, body)}\n"


def plot_curves(name: str, report: dict[str, Any], folder: Path) -> str | None:
    """Plot the mean training loss of every compiled row to an SVG next to the JSON; returns its path."""
    rows = [row for row in report["rows"] if row.get("curve")]
    if not rows:
        return None
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        lora = max((step for phase, step, _ in row["curve"] if phase == "lora"), default=-5) + 5
        points = {step + (lora if phase == "kv" else 0): loss for phase, step, loss in row["curve"]}
        steps = sorted(points)
        label = f"{row['method']} {cell(row['ratio'], '{:g}×')}"
        axes.plot(steps, [points[s] for s in steps], label=label)
    axes.set(xlabel="optimizer step", ylabel="loss (nats per answer token)", yscale="log", title=name)
    axes.legend(fontsize="small")
    file = folder / f"{name}.svg"
    with rc_context({"svg.hashsalt": name}):  # makes the ids in the file reproducible
        figure.savefig(file, metadata={"Date": None})
    return f"{folder.name}/{file.name}"


def skill_table(report: dict[str, Any]) -> str:
    """The skills of the nano model as a Markdown table, also for its model card."""
    rows = [
        [
            r["skill"],
            f"{100 * r['rate']:.1f} %",
            f"{100 * r['ci95'][0]:.1f}-{100 * r['ci95'][1]:.1f} %",
            str(r["n"]),
        ]
        for r in report["rows"]
    ]
    return _table(["skill", "right", "95 % CI", "n"], rows)


def skills(name: str, report: dict[str, Any]) -> str:
    """The section of the nano model's skills."""
    about = f"Model {report['model']}, {report['documents']} documents for each skill, seed {report['seed']}."
    return f"## {name}\n\n{about}\n\n{skill_table(report)}\n"


ROUTER_COLUMNS = (
    ("compiler", "compiler", "{}"),
    ("row", "row", "{}"),
    ("n", "n", "{}"),
    ("score", "contains", "{:.3f}"),
    ("score_ci95", "95 % CI", "{0[0]:.2f}-{0[1]:.2f}"),
    ("relative_to_oracle", "of the oracle", "{:.3f}"),
    ("top1", "top 1", "{:.3f}"),
    ("recall_at_8", "recall at 8", "{:.3f}"),
    ("balanced_accuracy", "balanced accuracy", "{:.3f}"),
    ("auroc", "AUROC", "{:.3f}"),
    ("harm_points", "harm points", "{:.2f}"),
    ("overhead_flops", "overhead FLOPs", "{:.3f}"),
)


def router(name: str, report: dict[str, Any], folder: Path) -> str:
    """The section of a router study: retrieval, routing and gates on held-out questions."""
    rows = [[cell(row.get(key), form) for key, _, form in ROUTER_COLUMNS] for row in report["rows"]]
    about = (
        f"Model {report['model']}, embedder {report['embedder']}, source {report['source']}, "
        f"{report['records']} records, seed {report['seed']}. Measured on {report['machine']}, "
        f"{report['date']}."
    )
    text = f"## {name}\n\n{about}\n\n{_table([title for _, title, _ in ROUTER_COLUMNS], rows)}\n"
    plot = plot_risk(name, report, folder)
    return text + (f"\n![Risk and coverage of {name}]({plot})\n" if plot else "")


def plot_risk(name: str, report: dict[str, Any], folder: Path) -> str | None:
    """Plot the risk-coverage curves to an SVG next to the JSON; returns its path."""
    curves = {
        key: each["risk_coverage"]
        for key, each in report["calibrations"].items()
        if each.get("risk_coverage")
    }
    if not curves:
        return None
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    for compiler, points in curves.items():
        axes.plot([x for x, _ in points], [y for _, y in points], label=compiler)
    axes.set(xlabel="coverage: questions left to artifacts", ylabel="risk: wrong among those", title=name)
    axes.set(xlim=(0, 1), ylim=0)
    axes.legend(fontsize="small")
    file = folder / f"{name}.svg"
    with rc_context({"svg.hashsalt": name}):
        figure.savefig(file, metadata={"Date": None})
    return f"{folder.name}/{file.name}"


def bench(name: str, report: dict[str, Any], folder: Path) -> str:
    """The section of a benchmark or a study, with one table for all rows that have the same columns."""
    what = f"bench {report['bench']}" if "bench" in report else f"eval --study {report['study']}"
    of = f" {report['source']}, seed {report['seed']}," if "study" in report else ""
    about = f"`memkit {what}`,{of} measured on {report['machine']}, {report['date']}."
    text = f"## {name}\n\n{about}\n" + "".join(f"\n{note}\n" for note in report.get("notes", ()))
    tables = dict[tuple[str, ...], list[list[str]]]()
    for row in (*report["rows"], *report.get("lengths", ()), *report.get("needles", ())):
        names = tuple(key for key, value in row.items() if value not in ([], {}))
        tables.setdefault(names, []).append([_figure(row[key]) for key in names])
    text += "".join(f"\n{_table(list(names), rows)}\n" for names, rows in tables.items())
    drawn = folder / f"{name}.svg"
    return text + (f"\n![{name}]({folder.name}/{drawn.name})\n" if drawn.exists() else "")


def _figure(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_figure(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "–".join(map(_figure, value))
    return cell(value, "{:.4g}" if isinstance(value, float) else "{}")


COSTS = (
    ("row", "compiled", "{}"),
    ("context_tokens", "context tokens", "{:,}"),
    ("retention", "retention", "{:.3f}"),
    ("retention_ratio_vs_paper", "of the paper's", "{:.2f}"),
    ("compile_steps", "steps", "{:,.0f}"),
    ("compile_s", "seconds", "{:.1f}"),
    ("compile_flops", "FLOPs", "{:.2e}"),
    ("flops_per_token", "FLOPs per token", "{:.2e}"),
    ("flops_ratio_vs_paper", "of the paper's", "{:.4f}"),
    ("of_rate", "of the matrix rate", "{:.2f}"),
    ("step_of_rate", "of the rate, per step", "{:.2f}"),
    ("peak_bytes", "peak bytes", "{:,.0f}"),
    ("peak_bytes_over_model", "over the model's", "{:,.0f}"),
)


def costs(name: str, report: dict[str, Any]) -> str:
    """The section of compile costs: the fast recipe, the paper's, and several text lengths."""
    rows = [[cell(row.get(key), form) for key, _, form in COSTS] for row in report["rows"]]
    about = (
        f"`memkit bench compile`, model {report['model']}, source {report['source']}, {report['ratio']:g}×, "
        f"seed {report['seed']}, on {report['machine']}, {report['date']}. The paper's FLOPs are for all "
        "its steps, with one forward pass over the context for the samples of a step; the paper repeats it."
    )
    return f"## {name}\n\n{about}\n\n{_table([title for _, title, _ in COSTS], rows)}\n"


def calibration(name: str, report: dict[str, Any]) -> str:
    """The section of the admission gate's thresholds, measured on the artifacts they were chosen on."""
    rows = [[key, cell(value, "{}")] for key, value in report.items() if key != "auc"]
    rows += [[f"AUC of {key}", cell(value, "{:.3f}")] for key, value in report["auc"].items()]
    return f"## {name}\n\n{_table(['admission gate', ''], rows)}\n"


def render(folder: Path) -> str:
    """The whole report, ordered by file name. Raises `ConfigError` for a file that is not a result."""
    parts = [HEAD]
    for file in sorted(folder.glob("*.json")):
        try:
            report = json.loads(file.read_text())
        except ValueError as error:
            raise ConfigError(f"{file} is no JSON: {error}") from error
        if report.get("study") == "router":
            parts.append(router(file.stem, report, folder))
        elif report.get("bench") == "compile":
            parts.append(costs(file.stem, report))
        elif "bench" in report or report.get("study") == "meanpool":
            parts.append(bench(file.stem, report, folder))
        elif "documents" in report:
            parts.append(skills(file.stem, report))
        elif "auc" in report:
            parts.append(calibration(file.stem, report))
        elif "rows" in report:
            parts.append(answers(file.stem, report, folder))
        else:
            raise ConfigError(f"{file} is no result of an evaluation or a bench")
    return "\n".join(parts)
