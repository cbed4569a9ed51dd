"""How two versions of a memory differ: in what they were compiled from, and in what they showed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memkit.bank import Bank, Entry
from memkit.bank.versions import Version
from memkit.errors import NotFoundError

FIGURES = ("fidelity", "held_out_fidelity", "answer_nats", "reconstruction_nats", "drift_nats")


@dataclass(frozen=True)
class Difference:
    """Entries that only the ``newer`` version has seen, and those that only the ``older`` one has.

    ``fidelity`` maps a figure of the admission gate to its values in the older and the newer version.
    """

    older: Version
    newer: Version
    added: tuple[Entry, ...]
    removed: tuple[Entry, ...]
    fidelity: dict[str, tuple[float | None, float | None]]


def difference(bank: Bank, tenant: str, memory_id: str, older: int, newer: int) -> Difference:
    """Compare two kept versions of a memory. Raises `NotFoundError` for one that is not kept."""
    known = {each.version: each for each in bank.versions.history(tenant, memory_id)}
    for version in (older, newer):
        if version not in known:
            raise NotFoundError(
                f"memory {memory_id} has no version {version}; its history tells which there are"
            )
    entries = bank.logs.entries(tenant, memory_id)
    one, two = ({e.number for e in entries if _seen(known[v], e)} for v in (older, newer))
    figures = [_figures(bank, tenant, memory_id, version) for version in (older, newer)]
    return Difference(
        known[older],
        known[newer],
        tuple(e for e in entries if e.number in two - one),
        tuple(e for e in entries if e.number in one - two),
        {name: (figures[0].get(name), figures[1].get(name)) for name in FIGURES},
    )


def _seen(version: Version, entry: Entry) -> bool:
    if version.through is None or entry.number > version.through:
        return False
    return version.since is None or entry.said >= version.since


def _figures(bank: Bank, tenant: str, memory_id: str, version: int) -> dict[str, Any]:
    with bank.artifact(tenant, memory_id, version) as artifact:
        return dict(artifact.manifest.verification)
