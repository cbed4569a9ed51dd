"""A nightly recompilation: ``python examples/nightly.py``. Needs no network.

On a server, the line that ``memkit cron`` prints runs the same command.
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
        # Texts as short as these would stay on the text route; --always compiles them anyway.
        run(["recompile", "--home", folder, "--always"])
        run(["recompile", "--home", folder, "--always"])  # nothing has changed since: nothing is compiled
        run(["list", "--home", folder, "--user", "mira"])


if __name__ == "__main__":
    main()
