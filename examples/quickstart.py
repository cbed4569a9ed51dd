"""Remember, ask, forget: ``python examples/quickstart.py``. Needs no network."""

from __future__ import annotations

import tempfile

import memkit

DOCUMENT = """Simsem lives in Lasces. Her horse is called Shopux. Vekek works at Palhus.
Mevrol lives in Tadon. Her boat is called Kirvan."""


def main() -> None:
    # Without a path, the bank would lie in your data folder; without a user, its owner is "default".
    with tempfile.TemporaryDirectory() as folder, memkit.Memory(folder, user="mira") as memory:
        info = memory.remember(DOCUMENT, title="people", wait=True)  # wait: until it is compiled
        print(f"{info.characters} characters became an artifact of {info.artifact_bytes} bytes")

        answer = memory.ask("What is Simsem's horse called?")
        print(f"{answer.text!r} by the {answer.route} route, because: {answer.trace.reason}")

        memory.forget(info.id)
        answer = memory.ask("What is Simsem's horse called?")
        print(f"forgotten: now by the {answer.route} route")


if __name__ == "__main__":
    main()
