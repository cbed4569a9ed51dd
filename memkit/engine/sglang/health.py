"""Check that an SGLang server can serve a bank's artifacts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from memkit._version import __version__
from memkit.engine.sglang.workers import Worker, Workers
from memkit.errors import EngineError

MIN_VERSION = (0, 5, 23)  # the first SGLang whose cache linker can be a plugin
TIMEOUT = 20.0  # seconds
_KEYS = (
    "memkit sglang fingerprint vocabulary problem starting model dtype page_size window header end "
    "hidden_states lora max_loaded_loras vocabulary_size"
).split()


def checked_info(workers: Workers, worker: Worker, wait: float) -> Mapping[str, Any]:
    """A server's description of itself; waits up to ``wait`` seconds until it has identified its model.

    Raises `WorkerError` when it does not respond, `EngineError` when it cannot be used.
    """
    deadline = time.monotonic() + wait
    while True:
        try:
            info = workers.request(worker, "/memkit", timeout=TIMEOUT)
        except EngineError as error:
            raise without_plugin(workers, worker, error) from error
        if not isinstance(info, dict) or not set(_KEYS) <= set(info):
            raise EngineError(f"the plugin of {worker.url} is of another memkit: install {__version__} there")
        if not info["starting"] or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    if info["problem"]:
        raise EngineError(f"{worker.url} serves no artifacts: {info['problem']}")
    return info


def without_plugin(workers: Workers, worker: Worker, error: EngineError) -> EngineError:
    """The reason why a server that responds has no ``/memkit`` route."""
    try:
        version = str(workers.request(worker, "/server_info", timeout=TIMEOUT).get("version"))
    except (EngineError, AttributeError):
        return EngineError(f"{worker.url} is no SGLang server: {error}")
    if version_of(version) < MIN_VERSION:
        least = ".".join(map(str, MIN_VERSION))
        return EngineError(f"{worker.url} runs SGLang {version}; memkit needs {least} or later")
    return EngineError(
        f"{worker.url} runs SGLang {version} without memkit's plugin: install memkit beside it, and start it "
        "with the flags of memkit sglang-args"
    )


def version_of(text: str) -> tuple[int, ...]:
    """The leading numbers of a version."""
    numbers = list[int]()
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
