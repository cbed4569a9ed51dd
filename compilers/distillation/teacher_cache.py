"""A cache of the frozen model's answers to context-agnostic queries.

They depend only on the model and the query, not on a document or a tenant (LCC §3.4: "the frozen base model
as a teacher").
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from memkit.config import Config
from memkit.engine.transformers import kv_cache
from memkit.models.loading import LoadedModel

BATCH = 16  # rows that are decoded together


def default_cache() -> Path:
    """The folder of what can be computed again: `Config.cache`, else the platform's folder for caches."""
    from platformdirs import user_cache_path

    return Config.load().cache or user_cache_path("memkit", appauthor=False)


def teacher_responses(
    base: LoadedModel, queries: Sequence[str], max_tokens: int, cache: Path | None = None
) -> list[tuple[int, ...]]:
    """Greedy answers without a context, as token ids; they end with the end token unless cut off.

    Answers are cached in the folder ``cache`` (default: the model's, else `default_cache`), in one file for
    each model and ``max_tokens``. A file that cannot be read or written is ignored.
    """
    folder = cache or base.cache or default_cache()
    file = folder / "responses" / f"{base.fingerprint[:32]}-{max_tokens}.json"
    cached = _read(file, len(base.tokenizer))
    if absent := [query for query in dict.fromkeys(queries) if _key(query) not in cached]:
        for query, answer in zip(absent, _answer(base, absent, max_tokens), strict=True):
            cached[_key(query)] = answer
        _write(file, cached)
    return [cached[_key(query)] for query in queries]


def _key(query: str) -> str:
    return hashlib.sha256(query.encode()).hexdigest()[:32]


def _answer(base: LoadedModel, queries: Sequence[str], max_tokens: int) -> list[tuple[int, ...]]:
    header = kv_cache.prefill(base.model, list(base.chat.header)) if base.chat.header else None
    ids = [base.chat.query(base.tokenizer, query, False) for query in queries]
    return with_answers(base, header, ids, max_tokens)


def with_answers(
    base: LoadedModel,
    prefix: kv_cache.KVCache | None,
    queries: Sequence[Sequence[int]],
    max_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
    until: float = math.inf,
    report: Callable[[int], object] = lambda answered: None,
) -> list[tuple[int, ...]]:
    """The model's answers after ``prefix``, greedy or sampled; they end with the end token unless cut off.

    After the time ``until``, by `time.perf_counter`, no second batch begins: the last answers are missing.
    ``report`` gets the number of answers after each batch.
    """
    answers, random = list[tuple[int, ...]](), torch.Generator(base.model.device).manual_seed(seed)
    for group in kv_cache.chunked(queries, BATCH):
        if answers and time.perf_counter() >= until:
            break
        for row in kv_cache.decode(
            base.model,
            prefix,
            group,
            max_tokens=max_tokens,
            end=base.chat.end,
            temperature=temperature,
            generator=random,
        ):
            ended = len(row.ids) < max_tokens
            answers.append((*row.ids, base.chat.end) if ended else tuple(row.ids))
        report(len(answers))
    return answers


def _read(file: Path, vocabulary: int) -> dict[str, tuple[int, ...]]:
    try:
        rows = json.loads(file.read_text())
        cached = {str(key): tuple(int(token) for token in ids) for key, ids in rows.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
    sound = all(ids and all(0 <= token < vocabulary for token in ids) for ids in cached.values())
    return cached if sound else {}


def _write(file: Path, known: dict[str, tuple[int, ...]]) -> None:
    """Replace the file atomically; of concurrent writers the last one wins."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, suffix=".partial")
        try:
            with os.fdopen(handle, "w") as out:
                json.dump(known, out)
            os.replace(name, file)
        except OSError:
            Path(name).unlink(missing_ok=True)
