"""The protocol between memkit and an SGLang server: keys, salts and page hashes, in pure Python.

A request claims its artifact in SGLang's ``extra_key``, which is part of every cache key, so artifacts never
share cache entries. ``cache_salt`` is part of the cache key, too, and is the tenant's secret: without it a
client can neither hit the tenant's cache nor use its artifacts.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from memkit.errors import EngineError

Served = Literal["kv", "embeds", "lora"]
SCHEME = "memkit:"  # prefix of the extra_key of a request with an artifact
ADAPTER = "memkit-"  # prefix of the name of an artifact's LoRA
PLACEHOLDER = 0  # the token id at an artifact's positions
MIN_SECRET = 16  # bytes
_CLAIM = re.compile(r"memkit:(kv|embeds|lora):([0-9a-f]{16}):([0-9a-f]{64})")
_SEED = b"sglang-cache-namespace-v1"


@dataclass(frozen=True)
class Claim:
    """A request's claim to an artifact: its ``kind``, its ``tenant`` (see `tenant_folder`) and its id."""

    kind: Served
    tenant: str
    artifact: str

    def __post_init__(self) -> None:
        if self.kind not in get_args(Served) or not _CLAIM.fullmatch(self.key):
            raise ValueError(f"no artifact can be called {self.key!r:.120}")

    @property
    def key(self) -> str:
        """The request's ``extra_key``."""
        return f"{SCHEME}{self.kind}:{self.tenant}:{self.artifact}"

    @property
    def adapter(self) -> str:
        """The name of a LoRA artifact on a server."""
        return f"{ADAPTER}{self.tenant}-{self.artifact}"

    @property
    def file(self) -> str:
        """The artifact's file, relative to the bank's artifact store."""
        return f"{self.tenant}/{self.artifact}.mka"

    @classmethod
    def parse(cls, extra_key: str | None) -> Claim | None:
        """The claim in an ``extra_key``; None if it is not memkit's. Raises `EngineError` if malformed."""
        if extra_key is None or not extra_key.startswith(SCHEME):
            return None
        match = _CLAIM.match(extra_key)
        rest = extra_key[match.end() :] if match else ""
        if match is None or (rest and match[1] != "lora"):  # SGLang appends the LoRA's id
            raise EngineError(f"extra_key {extra_key!r:.120} names no artifact; upgrade memkit on both sides")
        kind: Served = "kv" if match[1] == "kv" else "embeds" if match[1] == "embeds" else "lora"
        return cls(kind, match[2], match[3])


def tenant_folder(tenant: str) -> str:
    """The name of the tenant's folder in the artifact store: 16 hex digits of its hash."""
    return hashlib.sha256(tenant.encode()).hexdigest()[:16]


def salt(secret: bytes, tenant: str) -> str:
    """The ``cache_salt`` of a tenant, given by its `tenant_folder`: 32 hex digits, derived from the
    secret."""
    return hmac.new(secret, b"memkit cache salt\0" + tenant.encode(), hashlib.sha256).hexdigest()[:32]


def page_hashes(ids: Sequence[int], page: int, extra_key: str | None, cache_salt: str | None) -> list[str]:
    """The hashes by which SGLang looks up the full pages of a prompt's ``ids`` in an external store.

    ``page`` is the page size in tokens.
    """
    digest = _seed(extra_key, cache_salt)
    hashes = list[str]()
    for start in range(0, len(ids) - page + 1, page):
        tokens = struct.pack(f"<{page}I", *ids[start : start + page])
        digest = hashlib.sha256(digest + tokens).digest()
        hashes.append(digest.hex())
    return hashes


def _seed(extra_key: str | None, cache_salt: str | None) -> bytes:
    if extra_key is None and cache_salt is None:
        return b""
    seed = hashlib.sha256(_SEED)
    for part in (extra_key, cache_salt):
        if part is None:
            seed.update(b"\x00")
        else:
            encoded = part.encode()
            seed.update(b"\x01" + len(encoded).to_bytes(8, "little") + encoded)
    return seed.digest()
