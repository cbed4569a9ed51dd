"""What happens at night: ``python examples/nightly.py``. Needs no network.

On a server, the line that ``memkit cron`` prints runs the very command that is run here.
"""

from __future__ import annotations

import tempfile

import memkit
from memkit.cli import main as run  # the command, in this process


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        with memkit.Memory(folder) as memory:
            for user in ("mira", "rolan"):
                memory.for_user(user).remember(
                    "I live in Lasces. My horse is called Shopux.", memory="profile"
                )
        run(["cron", "--format", "crontab", "--home", folder])
        # Texts as short as these would stay as they are; --always compiles them nevertheless.
        run(["recompile", "--home", folder, "--always"])
        run(["recompile", "--home", folder, "--always"])  # nothing has changed: nothing to do
        run(["list", "--home", folder, "--user", "mira"])


if __name__ == "__main__":
    main()
