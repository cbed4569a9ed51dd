"""``memkit calibrate``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memkit.cli.evaluate import check_writable, write_json
from memkit.cli.lazy_loading import usable
from memkit.cli.options import (
    Compiler,
    EmbedderName,
    Home,
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
    load_config,
    open_memory,
)
from memkit.cli.output import Output
from memkit.cli.progress import progress

SHOWN = (
    "n n_report balanced_accuracy auroc entropy_balanced_accuracy entropy_auroc latent latent_wrong".split()
)


def calibrate(
    source: Records = "generated:24",
    compiler: Compiler = "auto",
    unrelated: Unrelated = None,
    unanswerable: Unanswerable = None,
    limit: Limit = None,
    questions: Questions = 4,
    work: Work = None,
    option: Options = None,
    seed: Seed = 0,
    embedder: EmbedderName = None,
    home: Home = None,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Calibrate the gate of a bank for a model and a compiler.

    Compiles the records separately from all users' memories, asks answerable and unanswerable questions, and
    stores classifiers and thresholds in the bank's folder. With the compiler none, only texts are used.
    """
    output, target = Output(json == "-"), None if json in (None, "-") else usable(json)
    if target is not None:
        check_writable(target)
    from memkit.evals.router_dataset import TENANT, Sources
    from memkit.evals.router_dataset import calibrate as run
    from memkit.router.router import NO_COMPILER

    sources = Sources(source, unrelated, unanswerable, limit, questions, seed=seed)
    settings: dict[str, Any] = {"embedder": embedder, "options": compiler_options(option)}
    if compiler != NO_COMPILER:
        settings["compiler"] = compiler
    with (
        _folder(work) as folder,
        open_memory(folder, model, TENANT, **settings) as memory,
        progress(output) as report,
    ):
        name = compiler if compiler == NO_COMPILER else memory.chosen_compiler.name
        calibration, path = run(
            memory, name, sources, load_config(home).home, lambda label, a, b: report(label, "", a, b)
        )
    result = {"file": path, **calibration.plain()}
    if target is not None:
        write_json(target, result)
    rows = [(name, calibration.report.get(name)) for name in SHOWN]
    rows += list(result["thresholds"].items())
    output.result(result, lambda: output.table(("calibration", str(path)), rows))


@contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    if work is not None:
        yield work
        return
    with tempfile.TemporaryDirectory(prefix="memkit-calibrate-") as folder:
        yield Path(folder)
