"""Peers as processes: where their interpreters are, and calls to the workers that run in them.

``tests/peers_env.sh`` makes the environments. A worker gets a home of its own and few of this process's
variables, so that no key, proxy or setting changes what is measured, and nothing leaves the machine.
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
KEPT = ("PATH", "LANG", "OMP_NUM_THREADS")  # of this process's variables
QUIET = {
    "MEM0_TELEMETRY": "False",
    "LANGSMITH_TRACING": "false",
    "NO_PROXY": "*",
    "PYTHONNOUSERSITE": "1",
}


class PeerError(EngineError):
    """What a peer says that it failed at."""


@dataclass(frozen=True)
class Environment:
    """An environment of `MAKE`: its interpreter, and the version that it was made for."""

    python: Path
    version: str

    @classmethod
    def of(cls, name: str, folder: Path | None = None) -> Environment:
        """The environment of a peer, beneath ``folder`` or where `MAKE` puts it by itself.

        Raises `ConfigError`, with the command that makes it, where there is none.
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
    """What a call returned, and what it took in the worker."""

    result: Any
    took: Timing


class Peer:
    """A worker script that runs by another interpreter; ``settings`` make its `Worker`.

    Its home and its log are beneath ``folder``. Raises `PeerError` where the worker cannot be made.
    """

    def __init__(self, python: Path, script: Path, folder: Path, settings: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "log"
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(python), "-P", str(LOOP), str(script)],
                env={**kept, **QUIET, "HOME": str(folder), "MEM0_DIR": str(folder / "mem0")},
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
        """Call a method of the worker. Raises `PeerError` for what it fails at, or does not do in time."""
        asked, answers = self._process.stdin, self._process.stdout
        if asked is None or answers is None:
            raise PeerError("the worker has no pipes")
        late = threading.Timer(TIMEOUT, self._process.kill)
        late.start()
        try:
            asked.write(json.dumps({"call": method, "arguments": arguments}) + "\n")
            asked.flush()
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        finally:
            late.cancel()
        if not line:
            raise PeerError(f"the worker ended, or took more than {TIMEOUT:g} s:\n{self._said()}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return Called(answer["result"], Timing(answer["ms"], answer["cpu_ms"]))

    def _said(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]

    def close(self) -> None:
        """Let the worker end, by itself or not."""
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
