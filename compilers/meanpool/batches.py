"""Samples and batches: one memory followed by several targets that do not attend to each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Branch:
    """A continuation of a memory: ``prompt`` ids, then ``target`` ids, whose loss is times ``weight``."""

    task: str
    prompt: tuple[int, ...]
    target: tuple[int, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Sample:
    """``header`` ids, then ``context`` ids as a memory (none: plain language modelling), then the
    branches."""

    header: tuple[int, ...]
    context: tuple[int, ...]
    branches: tuple[Branch, ...]

    @property
    def width(self) -> int:
        """The length of the longest branch, in tokens."""
        return max(len(b.prompt) + len(b.target) for b in self.branches)

    @property
    def cost(self) -> int:
        """The number of tokens to process, including the encoder's and padding."""
        return padded([self])


def padded(samples: Sequence[Sample]) -> int:
    """The number of tokens to process for these samples as one batch, including padding."""
    rows = sum(len(s.branches) for s in samples)
    return sum(len(s.context) for s in samples) + rows * max(s.width for s in samples)


@dataclass(frozen=True)
class Chunks:
    """``ids`` and ``mask`` are ``[chunk, token]``; the mask is 0 where a short chunk is padded."""

    ids: Tensor
    mask: Tensor

    @classmethod
    def of(cls, chunks: Sequence[Sequence[int]], device: Any) -> Chunks:
        width = max(len(chunk) for chunk in chunks)
        ids = torch.zeros(len(chunks), width, dtype=torch.long)
        mask = torch.zeros(len(chunks), width)
        for row, chunk in enumerate(chunks):
            ids[row, : len(chunk)] = torch.tensor(list(chunk))
            mask[row, : len(chunk)] = 1
        return cls(ids.to(device), mask.to(device))


@dataclass(frozen=True)
class Batch:
    """Padded samples with one header. Every branch is a row; the rows of a sample share its memory.

    Chunk i is number ``chunk_place[i]`` of sample ``chunk_row[i]``; ``memory_mask`` is
    ``[sample, position]``. ``ids`` and ``positions`` are ``[branch, token]``, ``mask`` is
    ``[branch, before + token]``, where ``before`` is the header and the memory of sample ``sample[branch]``.
    Target token t follows ``ids[row[t], column[t]]``; its weight is ``weight[t]`` and its task
    ``tasks[task[t]]``.
    """

    header: tuple[int, ...]
    chunks: Chunks | None
    chunk_row: Tensor
    chunk_place: Tensor
    memory_mask: Tensor
    sample: Tensor
    ids: Tensor
    positions: Tensor
    mask: Tensor
    row: Tensor
    column: Tensor
    target: Tensor
    weight: Tensor
    task: Tensor
    tasks: tuple[str, ...]


def collate(samples: Sequence[Sample], chunk: int, per_chunk: int, device: Any = "cpu") -> Batch:
    """Pad samples to one batch. All must have the same header, and all or none a context.

    ``chunk`` tokens become one memory embedding, which takes ``per_chunk`` positions.
    """
    header = samples[0].header
    split = [[s.context[i : i + chunk] for i in range(0, len(s.context), chunk)] for s in samples]
    counts = [len(chunks) * per_chunk for chunks in split]
    memory_mask = torch.zeros(len(samples), max(counts), dtype=torch.long)
    for row, count in enumerate(counts):
        memory_mask[row, :count] = 1
    flat = [chunk_ids for chunks in split for chunk_ids in chunks]
    places = [(row, i) for row, chunks in enumerate(split) for i in range(len(chunks))]
    owners = [row for row, s in enumerate(samples) for _ in s.branches]
    branches = [branch for s in samples for branch in s.branches]
    rows = _Rows([[*b.prompt, *b.target] for b in branches], [len(header) + counts[o] for o in owners])
    before = torch.cat((torch.ones(len(samples), len(header), dtype=torch.long), memory_mask), 1)
    tasks = tuple(dict.fromkeys(b.task for b in branches))
    learned = [token for row, b in enumerate(branches) for token in _learned(row, b, tasks)]
    row_of, column, target, weight, task = zip(*learned, strict=True) if learned else ((),) * 5

    def tensor(values: Sequence[int], kind: torch.dtype = torch.long) -> Tensor:
        return torch.tensor(values, dtype=kind, device=device)

    return Batch(
        header,
        Chunks.of(flat, device) if flat else None,
        tensor([row for row, _ in places]),
        tensor([i for _, i in places]),
        memory_mask.to(device),
        tensor(owners),
        rows.ids.to(device),
        rows.positions.to(device),
        torch.cat((before[owners], rows.mask), 1).to(device),
        tensor(row_of),
        tensor(column),
        tensor(target),
        tensor(weight, torch.float32),
        tensor(task),
        tasks,
    )


class _Rows:
    """``ids``, ``positions`` and ``mask``, ``[row, token]``, of texts that start at given positions."""

    def __init__(self, texts: Sequence[Sequence[int]], starts: Sequence[int]) -> None:
        shape = (len(texts), max(len(text) for text in texts))
        self.ids, self.mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
        self.positions = torch.tensor(starts)[:, None] + torch.arange(shape[1])
        for row, text in enumerate(texts):
            self.ids[row, : len(text)] = torch.tensor(list(text))
            self.mask[row, : len(text)] = 1


def _learned(row: int, branch: Branch, tasks: Sequence[str]) -> Iterator[tuple[int, int, int, float, int]]:
    """(row, column, target, weight, task) of each target token that follows another token."""
    start = len(branch.prompt)
    for i, token in enumerate(branch.target):
        if start + i:
            yield row, start + i - 1, token, branch.weight, tasks.index(branch.task)
