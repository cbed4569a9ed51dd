"""``memkit eval``."""

from __future__ import annotations

import json as jsonlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memkit.cli.lazy_loading import usable
from memkit.cli.options import (
    EmbedderName,
    Limit,
    Model,
    Options,
    Out,
    Questions,
    Records,
    Seed,
    Unanswerable,
    Unrelated,
    Work,
    compiler_options,
    quiet_libraries,
)
from memkit.cli.output import Output
from memkit.cli.progress import progress
from memkit.errors import ConfigError, MemkitError, MissingExtraError, install_line
from memkit.serialization import plain

if TYPE_CHECKING:
    from memkit.evals.lcc_studies import Study
    from memkit.evals.run import EvalConfig
    from memkit.judge import JudgeConfig


def _some(metavar: str, description: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(metavar=metavar, help=description, show_default=False)
    return option


Baselines = Annotated[str, typer.Option(metavar="B,...", help="Baselines to compare with.")]
Compilers = Annotated[str, typer.Option(metavar="C,...", help="Compilers, each a name or name:preset.")]
Ratios = Annotated[
    str | None, _some("R,...", "Context tokens per artifact token; default: 16, or what meanpool has.")
]
Longest = Annotated[int | None, _some("N", "Leave out records with a context of more than N tokens.")]
Wording = Annotated[str | None, _some("TEXT", "How to put a {question}.")]
AnswerTokens = Annotated[
    int | None, _some("N", "Longest answer; default: in proportion to the gold answers.")
]
Drift = Annotated[
    str | None, _some("FILE", "Questions to measure drift on; general: memkit's own; none: not at all.")
]
FirstToken = Annotated[
    int | None, _some("N", "Measurements of the time to first token; default: 5 with nano, else 1.")
]
SelfTest = Annotated[bool, typer.Option("--self-test", help="Also run the admission gate's self-test.")]


def evaluate(
    source: Records = "generated",
    compilers: Compilers = "lcc",
    baselines: Baselines = "full,none",
    ratio: Ratios = None,
    limit: Limit = None,
    questions: Questions = None,
    max_tokens: Longest = None,
    seed: Seed = 0,
    preset: Annotated[str | None, _some("P", "Preset of the compilers.")] = None,
    study: Annotated[str | None, _some("NAME", "Studies instead: lcc, recipe, router or meanpool.")] = None,
    unrelated: Unrelated = None,
    unanswerable: Unanswerable = None,
    embedder: EmbedderName = None,
    home: Work = None,
    html: Annotated[Path | None, _some("OUT", "Also write a page with plots and the answers.")] = None,
    judge: Annotated[str | None, _some("URL,MODEL", "Also let an LLM grade answers, 0 to 5.")] = None,
    wording: Wording = None,
    answer_tokens: AnswerTokens = None,
    drift: Drift = None,
    ttft: FirstToken = None,
    self_test: SelfTest = False,
    workers: Annotated[int, typer.Option(min=1, metavar="N", help="Processes.")] = 1,
    report: Annotated[bool, typer.Option("--report", help="Print a folder's results instead.")] = False,
    option: Options = None,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Measure compilers against baselines on the same questions. Your banks are not used.

    With --json OUT, the same command resumes an interrupted evaluation.
    """
    if report:
        return _report(source)
    output, target = Output(json == "-"), None if json in (None, "-") else usable(json)
    _check_outputs(target, html)
    measured = {"wording": wording, "answer_tokens": answer_tokens, "drift": drift, "ttft": ttft}
    measured |= {"max_tokens": max_tokens, "self_test": self_test or None}
    given = {f"--{name.replace('_', '-')}": value for name, value in measured.items()} | {"--html": html}
    _refuse(study, given | {"--unrelated": unrelated, "--unanswerable": unanswerable, "--home": home})
    options = compiler_options(option) | ({} if preset is None else {"preset": preset})
    quiet_libraries()
    names = ["meanpool"] if study == "meanpool" else _names(compilers)
    ratios = numbers(ratio, "--ratio") if ratio is not None else (_own_ratio(names, model) or 16.0,)
    parts: dict[str, Any] = {"source": source, "model": model, "limit": limit}
    parts |= {"questions": questions, "seed": seed, "embedder": embedder}
    if study == "router":
        parts |= {"unrelated": unrelated, "unanswerable": unanswerable, "home": home}
        return _router(output, parts, _names(compilers), options | {"ratio": ratios[0]}, target)
    if study == "meanpool":
        parts.pop("embedder")
        return _meanpool(output, parts | {"ratio": ratios[0]}, target, html)
    parts |= {name: value for name, value in measured.items() if value is not None}
    parts |= {"compilers": _names(compilers), "baselines": _names(baselines), "options": options}
    _compilers(output, parts, ratios, judge, study, target, html, workers)


def _check_outputs(json: Path | None, html: Path | None) -> None:
    """Raise what prevents the results from being written, before the work starts."""
    for path in (json, html):
        if path is not None:
            check_writable(path)
    if html is not None:
        check_plots()


# Which of the options that not all take are taken by a study; the others, and no study, take the last ones.
_TAKES = {"router": ("--unrelated", "--unanswerable", "--home"), "meanpool": ("--html",)}
_OTHERS = ("--html", "--wording", "--answer-tokens", "--drift", "--ttft", "--max-tokens", "--self-test")


def _refuse(study: str | None, options_given: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for options that the study does not use."""
    taken = _TAKES.get(study or "", _OTHERS)
    if idle := [name for name, value in options_given.items() if value is not None and name not in taken]:
        raise ConfigError(
            f"{f'--study {study}' if study else 'without --study router it'} takes no {idle[0]}"
        )


def _report(folder: str) -> None:
    """What ``RESULTS.md`` holds, from the JSON files of a folder."""
    from memkit.evals.reports.markdown import render

    place = usable(folder)
    if not list(place.glob("*.json")):
        raise ConfigError(f"there are no results in {folder}: it holds no .json files")
    print(render(place), end="")


def _own_ratio(names: Sequence[str], model: str) -> float | None:
    """The ratio that all these compilers work at, if they have the same one."""
    from memkit import registry
    from memkit.models.loading import load

    if "none" in names:  # the router's study without a compiler
        return None
    ratios = {registry.own_ratio(name.partition(":")[0], lambda: load(model)) for name in names}
    return ratios.pop() if len(ratios) == 1 else None


def _compilers(
    output: Output,
    parts: dict[str, Any],
    ratios: tuple[float, ...],
    judge: str | None,
    study: str | None,
    json: Path | None,
    html: Path | None,
    workers: int,
) -> None:
    """Compilers against baselines, or one of their studies."""
    from memkit.evals.lcc_studies import studies
    from memkit.evals.run import EvalConfig

    chosen = studies(study, ratios[0]) if study else ()
    variants = tuple(variant for one in chosen for variant in one.variants)
    parts |= {"compilers": ()} if study else {}
    config = EvalConfig(**parts, variants=variants, ratios=ratios, judge=_judge(judge))
    _run(output, config, chosen, json, html, workers)


def _router(
    output: Output,
    parts: dict[str, Any],
    compilers: Sequence[str],
    options: dict[str, Any],
    json: Path | None,
) -> None:
    """``--study router``; without a home and JSON, its banks are thrown away."""
    from memkit.evals.router_dataset import Sources
    from memkit.evals.router_study import RoutingConfig, study

    kept = parts.pop("home") or (None if json is None else Path(f"{json}.bank"))
    settings = {name: parts.pop(name) for name in ("model", "embedder")}
    with tempfile.TemporaryDirectory(prefix="memkit-study-") as folder, progress(output) as report:
        home = kept or Path(folder)
        config = RoutingConfig(
            Sources(**parts), home, compilers=tuple(compilers), options=options, **settings
        )
        table = study(config, lambda label, done, total: report(label, "", done, total))
    if json is not None:
        write_json(json, table)
    rows = [[row.get(name) for name in _ROUTER] for row in table["rows"]]
    output.result(table, lambda: output.table(_ROUTER, rows))


def _meanpool(output: Output, parts: dict[str, Any], json: Path | None, html: Path | None) -> None:
    """``--study meanpool``: the compressor's training, by stages; a page also has lengths and needles."""
    from memkit.evals.meanpool_study import STAGES, MeanPoolStudy, needle_page, study

    if html is not None:
        parts = parts | {"needles": NEEDLES, "documents": DOCUMENTS}
    config = MeanPoolStudy(**parts)
    with progress(output) as report:
        table = study(config, lambda label, done, total: report(label, "", done, total))
    if json is not None:
        write_json(json, table)
    if html is not None:
        _write(html, needle_page(table))
    columns = ("row", *(key for key, _, _ in STAGES))
    rows = [[row.get(name) for name in columns] for row in table["rows"]]
    output.result(table, lambda: output.table(columns, rows))


NEEDLES = 4  # per length and depth
DOCUMENTS = 4  # per length
_ROUTER = (
    "compiler row n score top1 relative_to_oracle recall_at_8 "
    "balanced_accuracy auroc harm_points overhead_flops"
).split()


def _judge(text: str | None) -> JudgeConfig | None:
    from memkit.judge import JudgeConfig

    if text is None:
        return None
    url, _, name = text.partition(",")
    return JudgeConfig(url, name)


def _run(
    output: Output,
    config: EvalConfig,
    chosen: Sequence[Study],
    json: Path | None,
    html: Path | None,
    workers: int,
) -> None:
    from memkit.evals.run import evaluate as run

    with progress(output) as report:
        table = run(
            config,
            progress=lambda label, done, total: report(label, "", done, total),
            journal=None if json is None else Path(f"{json}.partial"),
            workers=workers,
        )
    asked = table.pop("asked")  # questions of data sets may not be copied into results
    if json is not None:
        write_json(json, table)
    if html is not None:
        _write(html, _page(table | {"asked": asked}, chosen))
    output.result(table, lambda: _show(output, table))


def _page(table: dict[str, Any], chosen: Sequence[Study]) -> str:
    from memkit.evals.reports.results_html import results_page
    from memkit.evals.reports.study_html import page

    return page(table, chosen, "Studies of LCC") if chosen else results_page(table)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in (part.strip() for part in text.split(",")) if name)


def numbers(text: str, option: str) -> tuple[float, ...]:
    """The numbers of a comma-separated option. Raises `ConfigError`."""
    try:
        return tuple(float(part) for part in _names(text))
    except ValueError:
        raise ConfigError(f"{option} takes numbers with commas between them, got {text!r}") from None


def check_writable(path: Path) -> None:
    """Raise `ConfigError` for a path that cannot be written, before the work starts."""
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"cannot write {path}: give a file in a folder that exists and is writable")


def check_plots() -> None:
    """Raise `MissingExtraError` without matplotlib, before the work starts."""
    if find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", install_line("eval"))


def write_json(path: Path, table: dict[str, Any]) -> None:
    """Write a temporary file beside it, then replace it."""
    _write(path, jsonlib.dumps(plain(table), allow_nan=False, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise MemkitError(f"cannot write {path}: {error.strerror}") from error


# Enough to compare methods by, in tables that fit a window: the answers, how they compare with the full
# context's, and costs. JSON and RESULTS.md hold the rest.
_SHOWN = tuple(
    names.split()
    for names in (
        "method ratio n failed em f1 contains contains_ci95 metric score score_ci95 judge",
        "method ratio agreement agreement_f1 retention retention_ci95 retention_f1 kl drift_points",
        "method ratio compile_s artifact_bytes prompt_tokens ttft_ms",
    )
)
_BY_CATEGORY = "category method ratio n f1 f1_ci95 score score_ci95 retention retention_ci95".split()


def _show(output: Output, table: dict[str, Any]) -> None:
    """The columns of `_SHOWN` under the titles of RESULTS.md, and below them the categories of questions."""
    from memkit.evals.reports.markdown import COLUMNS, SCORE, columns_of

    rows, titles = table["rows"], {name: title for name, title, _ in COLUMNS}
    needed = [name for name, _, _ in columns_of(rows)]
    left_out = {name for name in SCORE if name not in needed}
    left_out |= {"judge"} if all(row["judge"] is None for row in rows) else set()
    left_out |= {"failed"} if not any(row["failed"] for row in rows) else set()
    for shown, names in (*((rows, names) for names in _SHOWN), (table["categories"], _BY_CATEGORY)):
        if shown:
            kept = [name for name in names if name not in left_out]
            output.table([titles.get(n, n) for n in kept], [[row.get(n) for n in kept] for row in shown])
            output.say("")
