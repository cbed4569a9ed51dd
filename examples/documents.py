"""Questions about several documents, with provenance: ``python examples/documents.py``. Needs no network."""

from __future__ import annotations

import tempfile

import memkit

DOCUMENTS = {
    "staff.txt": "Vekek works at Palhus. Vekek's badge is KD-417. Vekek lives next door to Rombel.",
    "travel.txt": "Simsem lives in Lasces. Simsem spends the summer in Bolnad. Her horse is called Shopux.",
    "fleet.txt": "Dormix drives a boat named Zilfar. Dormix was born in Kelpon.",
}
QUESTIONS = [
    "What is Vekek's badge?",
    "Where does Simsem spend the summer?",
    "What is the capital of France?",
]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, memkit.Memory(folder, user="acme") as memory:
        for title, text in DOCUMENTS.items():
            memory.remember(text, title=title, compile=False)
        for question, answer in zip(QUESTIONS, memory.ask_many(QUESTIONS), strict=True):
            print(f"{question} {answer.text}")
            trace = answer.trace
            if trace.memory_id is None:
                print(f"  from no document: {trace.reason}")
                continue
            source = memory.bank.source("acme", trace.memory_id)
            for span in trace.spans:
                place = f"{source.title}, characters {span.start}-{span.end}"
                print(f"  from {place}: {source.text[span.start : span.end]!r}")


if __name__ == "__main__":
    main()
