"""Run peers as processes: find their environments, and call the workers in them.

``tests/peers_env.sh`` creates the environments. A worker gets its own home and few of this process's
variables, so that no key, proxy or setting affects the measurement, and nothing leaves the machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memkit.bench.peers.figures import Timing
from memkit.config import path_of
from memkit.errors import ConfigError, EngineError

LOOP = Path(__file__).with_name("loop.py")
MAKE = "tests/peers_env.sh"
TIMEOUT = 120.0  # seconds of one call
INHERITED = ("PATH", "LANG", "OMP_NUM_THREADS")  # environment variables
QUIET = {
    "MEM0_TELEMETRY": "False",
    "LANGSMITH_TRACING": "false",
    "NO_PROXY": "*",
    "PYTHONNOUSERSITE": "1",
}


class PeerError(EngineError):
    """A failure reported by a peer."""


@dataclass(frozen=True)
class Environment:
    """An environment created by `MAKE`: its interpreter, and the peer's version."""

    python: Path
    version: str

    @classmethod
    def of(cls, name: str, folder: Path | None = None) -> Environment:
        """The environment of a peer, in ``folder`` (default: that of `MAKE`).

        Raises `ConfigError`, which names the command that creates it, if there is none.
        """
        place = (folder or _default()) / name
        try:
            first, *_ = (place / ".memkit").read_text().split()
        except (OSError, ValueError) as error:
            raise ConfigError(f"there is no environment of {name}: {MAKE} makes it") from error
        return cls(place / "bin" / "python", first.partition("==")[2])


def _default() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return path_of("MEMKIT_PEERS") or Path(cache, "memkit", "peers")


@dataclass(frozen=True)
class Called:
    """The result of a call, and its time in the worker."""

    result: Any
    took: Timing


class Peer:
    """A worker script in another interpreter; ``settings`` are the arguments of its ``Worker``.

    Its home and its log are in ``folder``. Raises `PeerError` if the worker cannot be created.
    """

    def __init__(self, python: Path, script: Path, folder: Path, settings: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "log"
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(python), "-P", str(LOOP), str(script)],
                env={**inherited, **QUIET, "HOME": str(folder), "MEM0_DIR": str(folder / "mem0")},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            self.call("", **settings)
        except PeerError:
            self.close()
            raise

    def call(self, method: str, **arguments: Any) -> Called:
        """Call a method of the worker. Raises `PeerError` when it fails or times out."""
        requests, answers = self._process.stdin, self._process.stdout
        if requests is None or answers is None:
            raise PeerError("the worker has no pipes")
        late = threading.Timer(TIMEOUT, self._process.kill)
        late.start()
        try:
            requests.write(json.dumps({"call": method, "arguments": arguments}) + "\n")
            requests.flush()
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        finally:
            late.cancel()
        if not line:
            raise PeerError(f"the worker ended, or took more than {TIMEOUT:g} s:\n{self._log_tail()}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return Called(answer["result"], Timing(answer["ms"], answer["cpu_ms"]))

    def _log_tail(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]

    def close(self) -> None:
        """End the worker; kill it if it does not exit."""
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
