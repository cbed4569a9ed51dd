"""Start SGLang servers for tests and benchmarks, each in its own process group.

They run in an environment with SGLang, such as ``tests/sglang_env.sh`` creates for a machine without a GPU;
this memkit is added to its path.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import memkit
from memkit.config import path_of
from memkit.errors import ConfigError, EngineError

SGLANG = "0.5.23"  # the version that memkit is tested with
START = 300.0  # seconds until a server must have started
# A small dense model in float32.
CPU_FLAGS = (
    "--device cpu --attention-backend torch_native --dtype float32 --mem-fraction-static 0.1 "
    "--skip-server-warmup --disable-cuda-graph --log-level warning"
).split()


def environment() -> Path:
    """The folder of the environment with SGLang. Raises `ConfigError` if there is none."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = path_of("MEMKIT_SGLANG_VENV") or Path(cache, "memkit", f"sglang-{SGLANG}")
    if not (folder / ".memkit").is_file():
        raise ConfigError(
            f"there is no environment with SGLang at {folder}; tests/sglang_env.sh makes one, or set "
            "MEMKIT_SGLANG_VENV"
        )
    return folder


def beside(folder: Path) -> Path:
    """Create a folder for ``PYTHONPATH`` with only this memkit and its entry point."""
    about = folder / f"memkit-{memkit.__version__}.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: memkit\nVersion: {memkit.__version__}\n")
    (about / "entry_points.txt").write_text(
        "[sglang.srt.plugins]\nmemkit = memkit.engine.sglang.plugin.plugin:install\n"
    )
    link = folder / "memkit"
    if not link.is_symlink():
        link.symlink_to(Path(memkit.__file__).resolve().parent, target_is_directory=True)
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One server, started with these ``flags``; its output goes to ``folder / "log"``."""

    def __init__(self, folder: Path, flags: Sequence[str], *, plugin: bool = True) -> None:
        venv, port = environment(), free_port()
        folder.mkdir(parents=True, exist_ok=True)
        self.url, self.log = f"http://127.0.0.1:{port}", folder / "log"
        path = str(beside(folder / "beside")) if plugin else ""
        variables = {
            **os.environ,
            "SGLANG_USE_CPU_ENGINE": "1",
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
            "PATH": f"{venv / 'bin'}:{os.environ['PATH']}",
        }
        command = [str(venv / "bin" / "python"), "-m", "sglang.launch_server", *CPU_FLAGS, *flags]
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(port)],
                env=variables,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def log_tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-6000:]

    def wait(self) -> None:
        """Wait until it responds. Raises `EngineError`, with the end of its log, if it does not start."""
        deadline = time.monotonic() + START
        while time.monotonic() < deadline and self.running:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=30) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.3)
        raise EngineError(f"SGLang did not start:\n{self.log_tail}")

    def kill(self) -> None:
        """Kill it and its children."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def servers(folder: Path, flags: Sequence[str], count: int = 1) -> Iterator[list[Server]]:
    """``count`` servers with the same flags, killed at the end of the context."""
    started = [Server(folder / str(i), flags) for i in range(count)]
    try:
        for each in started:
            each.wait()
        yield started
    finally:
        for each in started:
            each.kill()
