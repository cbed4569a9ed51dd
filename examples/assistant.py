"""A personal assistant that remembers across sessions: ``python examples/assistant.py``. Needs no network."""

from __future__ import annotations

import tempfile

import memkit

FIRST = ["Simsem lives in Lasces.", "Simsem's horse is called Shopux."]
SECOND = ["Simsem spends the summer in Tarvel."]
QUESTIONS = ["What is the name of Simsem's horse?", "Where does Simsem spend the summer?"]


def session(folder: str, statements: list[str], questions: list[str]) -> None:
    """One run of the program. Only the folder outlives it."""
    with memkit.Memory(folder, user="mira") as memory:
        for text in statements:
            memory.remember(text, memory="profile")
        for question in questions:
            answer = memory.ask(question)
            dates = [f"{part.said:%Y-%m-%d}" for part in answer.trace.parts if part.said]
            print(f"{question} {answer.text} ({answer.route}; said {', '.join(dates) or 'never'})")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        session(folder, FIRST, [])
        session(folder, SECOND, QUESTIONS)


if __name__ == "__main__":
    main()
