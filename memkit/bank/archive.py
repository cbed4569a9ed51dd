"""The format of a backup: a tar file with the catalog, the artifacts, the gate's calibrations and a listing.

The listing comes last and holds the SHA-256 of every other member.
"""

from __future__ import annotations

import re
import sqlite3

FORMAT = 1
CATALOG = "catalog.sqlite3"
LISTING = "memkit-backup.json"
MAX_LISTING = 1 << 30  # bytes
MEMBER_NAME = re.compile(
    r"catalog\.sqlite3|artifacts/[0-9a-f]{16}/[0-9a-f]{64}\.mka|calibrations/[\w.-]+\.json"
)


def tombstones(catalog: sqlite3.Connection) -> list[tuple[str, int]]:
    """What a copied catalog records as forgotten: hashes of memories, and when in microseconds since 1970."""
    return catalog.execute("SELECT memory_hash, forgotten FROM tombstones").fetchall()
