"""Compare two versions of a memory: the entries they were compiled from, and their admission figures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memkit.bank import Bank, Entry
from memkit.bank.versions import Version
from memkit.errors import NotFoundError

FIGURES = ("fidelity", "held_out_fidelity", "answer_nats", "reconstruction_nats", "drift_nats")


@dataclass(frozen=True)
class Difference:
    """The differences between two versions.

    Only the ``newer`` version was compiled from the entries ``added``, only the ``older`` one from those
    ``removed``. ``fidelity`` maps each of `FIGURES` to its value in the older and in the newer version.
    """

    older: Version
    newer: Version
    added: tuple[Entry, ...]
    removed: tuple[Entry, ...]
    fidelity: dict[str, tuple[float | None, float | None]]


def difference(bank: Bank, tenant: str, memory_id: str, older: int, newer: int) -> Difference:
    """Compare two stored versions of a memory. Raises `NotFoundError` for an unknown version."""
    versions = {each.version: each for each in bank.versions.history(tenant, memory_id)}
    for version in (older, newer):
        if version not in versions:
            raise NotFoundError(f"memory {memory_id} has no version {version}; `memkit history` lists them")
    entries = bank.logs.entries(tenant, memory_id)
    one, two = ({e.number for e in entries if _seen(versions[v], e)} for v in (older, newer))
    figures = [_figures(bank, tenant, memory_id, version) for version in (older, newer)]
    return Difference(
        versions[older],
        versions[newer],
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
