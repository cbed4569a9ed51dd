"""Context-agnostic queries (LCC §3.4), which keep an artifact on the instruction-following manifold.

`QUERIES` were written for memkit and are under its licence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from memkit.errors import ConfigError
from memkit.models.loading import LoadedModel

MAX_QUERY = 4_000  # characters

QUERIES: tuple[str, ...] = tuple(
    line.strip()
    for line in """
What is the capital of France?
Name three fruits that are red.
Explain why the sky is blue.
Write a short poem about the sea.
How do I boil an egg?
Translate 'good morning' into Spanish.
What is 17 plus 25?
List five animals that live in Africa.
Give me a synonym for happy.
What is the difference between a virus and a bacterium?
Write a sentence with the word bridge.
How many days are in a leap year?
Suggest a name for a cat.
What does photosynthesis mean?
Who wrote Romeo and Juliet?
Give a tip for sleeping better.
Convert 10 kilometres to miles.
What are the primary colours?
Describe a sunset in one sentence.
Write a Python function that adds two numbers.
What is the boiling point of water?
Name a famous scientist and say what they discovered.
What should I pack for a weekend trip?
Give the past tense of the verb go.
How does a bicycle stay upright?
Write a polite reply to an invitation.
What is the largest planet in the solar system?
Name two uses of salt.
Explain what a metaphor is.
What is the square root of 81?
Give me a simple recipe for pancakes.
What languages are spoken in Switzerland?
How do vaccines work?
Write a slogan for a bookshop.
Which ocean is the deepest?
Is a tomato a fruit or a vegetable?
Tell me a joke.
What is the opposite of generous?
Why do leaves fall in autumn?
How can I learn to play the guitar?
What does the word ephemeral mean?
Name a country in South America.
Write a haiku about snow.
Give an example of renewable energy.
How many sides does a hexagon have?
What is inflation?
Suggest a healthy breakfast.
Who painted the Mona Lisa?
""".strip().splitlines()
)


def queries_for(base: LoadedModel, source: str = "") -> tuple[str, ...]:
    """The queries in the JSONL file ``source``, else the model's own, else `QUERIES`.

    Raises `ConfigError` for a file that cannot be read as queries.
    """
    if source:
        return tuple(dict.fromkeys(read_queries(Path(source))))
    return base.prompts.agnostic_queries or QUERIES


def read_queries(path: Path) -> list[str]:
    """The queries of a JSONL file, one object on each line; see `query_of`.

    Raises `ConfigError` that names the first malformed line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read queries from {path}: {error}") from error
    queries = list(_parsed(path, lines))
    if not queries:
        raise ConfigError(f"{path} holds no queries")
    return queries


def _parsed(path: Path, lines: Sequence[str]) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield query_of(json.loads(line))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path}, line {number}: not a query ({error})") from error


def query_of(row: Any) -> str:
    """The query of ``{"q"}``, ``{"query"}``, ``{"question"}`` or Alpaca's ``{"instruction", "input"}``.

    Raises `ValueError` for anything else.
    """
    if not isinstance(row, dict):
        raise ValueError('a query is an object such as {"query": "..."}')
    for key in ("q", "query", "question", "instruction"):
        text = row.get(key)
        if isinstance(text, str) and text.strip():
            break
    else:
        raise ValueError("none of q, query, question, instruction holds a text")
    input_text = row.get("input") or ""
    if not isinstance(input_text, str):
        raise ValueError("input is not a text")
    query = f"{text.strip()}\n\n{input_text.strip()}".strip()
    if len(query) > MAX_QUERY:
        raise ValueError(f"{len(query):,} characters, the most is {MAX_QUERY:,}")
    return query
