"""Runs in a peer's interpreter, where memkit is not installed: ``python loop.py SCRIPT``.

SCRIPT defines a class ``Worker``. The first line on standard input holds the arguments it is made with,
each further one a method to call, as JSON ``{"call", "arguments"}``. A line answers each with ``{"result",
"ms", "cpu_ms"}``, the milliseconds of the call alone and of the processor in it, or with ``{"error"}``.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from typing import Any


def main(script: str) -> None:
    """Answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    make, worker = runpy.run_path(script)["Worker"], None
    for line in sys.stdin:
        asked = json.loads(line)
        started, busy = time.perf_counter(), time.process_time()
        answer: dict[str, Any]
        try:
            if worker is None:
                worker, result = make(**asked["arguments"]), None
            else:
                result = getattr(worker, asked["call"])(**asked["arguments"])
            took, busy = time.perf_counter() - started, time.process_time() - busy
            answer = {"result": result, "ms": took * 1000, "cpu_ms": busy * 1000}
        except Exception as error:  # whatever a peer fails at is a finding, and told
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
