"""Calibrate the admission gate: ``python -m memkit.evals.calibrate_admission REPORT.json ... --out FILE``.

The reports are those of ``memkit eval``: every compiled record has its self-test and its true retention. An
artifact with a retention below ``--keep`` should be refused; the fidelity threshold is the one that maximizes
the balanced accuracy of that decision.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from memkit.errors import ConfigError
from memkit.pipeline.admission import SelfTestResult, Thresholds

FEATURES = ("fidelity", "held_out_fidelity", "answer_nats", "reconstruction_nats")
SLACK = 1.5  # factor on the largest loss of a good artifact


@dataclass(frozen=True)
class Trial:
    """One artifact: its self-test, and whether it should be admitted."""

    measured: SelfTestResult
    good: bool


def trials(reports: Sequence[dict[str, Any]], compiler: str, keep: float) -> Iterator[Trial]:
    """All artifacts of ``compiler`` in the reports, with any preset and ratio; good if retention >=
    ``keep``."""
    for report in reports:
        for row in report["rows"]:
            if row["method"].split(":")[0] != compiler:
                continue
            for record in row["records"]:
                if record["retention"] is not None and record.get("admission"):
                    yield Trial(SelfTestResult(**record["admission"]), record["retention"] >= keep)


def auc(tested: Sequence[Trial], feature: str) -> float | None:
    """The probability that a good artifact scores better than a bad one; None without both kinds."""
    sign = 1 if "fidelity" in feature else -1
    scored = [(sign * v, t.good) for t in tested if (v := getattr(t.measured, feature)) is not None]
    good, bad = ([v for v, g in scored if g is wanted] for wanted in (True, False))
    if not good or not bad:
        return None
    wins: float = sum((a > b) + 0.5 * (a == b) for a in good for b in bad)
    return wins / (len(good) * len(bad))


def calibrate(tested: Sequence[Trial], keep: float) -> tuple[Thresholds, dict[str, Any]]:
    """Thresholds, and their figures on the artifacts that they were chosen on.

    Raises `ConfigError` with fewer than ten good or ten bad artifacts.
    """
    good, bad = ([t.measured for t in tested if t.good is wanted] for wanted in (True, False))
    if min(len(good), len(bad)) < 10:
        raise ConfigError(
            f"{len(good)} good and {len(bad)} bad artifacts; at least ten of each are needed to calibrate"
        )

    def balanced(limit: float) -> float:
        admitted = sum(m.fidelity >= limit for m in good) / len(good)
        refused = sum(m.fidelity < limit for m in bad) / len(bad)
        return (admitted + refused) / 2

    values = sorted({m.fidelity for m in (*good, *bad)})
    middles = [(a + b) / 2 for a, b in pairwise(values)] or values
    limit = max(middles, key=balanced)
    source = (
        f"{len(good)} artifacts that keep at least {keep:.0%} of their context's worth and {len(bad)} "
        f"that do not; balanced accuracy {balanced(limit):.3f} on these"
    )
    chosen = Thresholds(
        round(limit, 3),
        round(SLACK * max(m.answer_nats for m in good), 3),
        round(max(SLACK * max(m.drift_nats for m in good), 0.05), 3),
        source,
    )
    wrong = {
        "good_refused": sum(bool(chosen.refusal(m)) for m in good),
        "bad_admitted": sum(not chosen.refusal(m) for m in bad),
    }
    return chosen, {"good": len(good), "bad": len(bad), "balanced_accuracy": balanced(limit), **wrong}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reports", type=Path, nargs="+")
    parser.add_argument("--compiler", default="lcc")
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--out", type=Path, help="a thresholds.json to add to")
    parser.add_argument("--json", type=Path, help="also write what is printed to this file")
    options = parser.parse_args(argv)
    reports = [json.loads(file.read_text()) for file in options.reports]
    models = {report["fingerprint"] for report in reports}
    if len(models) != 1:
        raise ConfigError("the reports are of several models; calibrate each apart")
    tested = list(trials(reports, options.compiler, options.keep))
    chosen, about = calibrate(tested, options.keep)
    report = {**asdict(chosen), **about, "auc": {name: auc(tested, name) for name in FEATURES}}
    text = json.dumps(report, indent=1)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    if options.out:
        table = json.loads(options.out.read_text()) if options.out.exists() else {}
        table.setdefault(models.pop(), {})[options.compiler] = asdict(chosen)
        options.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
