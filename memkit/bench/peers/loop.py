"""The main loop of a peer's interpreter, where memkit is not installed: ``python loop.py SCRIPT``.

SCRIPT defines a class ``Worker``. The first line on standard input holds its constructor's arguments, each
further line a method to call, as JSON ``{"call", "arguments"}``. Each is answered by a line ``{"result",
"ms", "cpu_ms"}``, with the wall-clock and processor time of the call in milliseconds, or by ``{"error"}``.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from typing import Any


def main(script: str) -> None:
    """Process calls until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # keeps the output of libraries out of the answers
    make, worker = runpy.run_path(script)["Worker"], None
    for line in sys.stdin:
        call = json.loads(line)
        started, busy = time.perf_counter(), time.process_time()
        answer: dict[str, Any]
        try:
            if worker is None:
                worker, result = make(**call["arguments"]), None
            else:
                result = getattr(worker, call["call"])(**call["arguments"])
            took, busy = time.perf_counter() - started, time.process_time() - busy
            answer = {"result": result, "ms": took * 1000, "cpu_ms": busy * 1000}
        except Exception as error:  # any failure of a peer is reported
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
