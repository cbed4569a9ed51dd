"""Bundles: one memory and its artifact in a signed file, to move it between banks (needs the extra ``sign``).

A bundle holds the source (a text, or dated entries), the part of it that the artifact was compiled from, and
the artifact. It is loaded only when a trusted key signed exactly its bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgpack  # type: ignore[import-untyped]  # it ships no types

from memkit.artifact.format import Artifact
from memkit.artifact.signing import Signer, verified_bytes
from memkit.bank import Bank, CompiledFrom, MemoryInfo, Message
from memkit.bank.conversation_logs import Embed
from memkit.document import Document
from memkit.errors import ArtifactError, ConfigError, NotFoundError, VerificationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FORMAT = 1
_CONTEXT = b"memkit bundle 1\x00"
_PAYLOAD: Mapping[str, type | tuple[type, ...]] = {
    "tenant": str,
    "title": str,
    "name": (str, type(None)),
    "text": str,
    "entries": list,
    "through": (int, type(None)),
    "since": (str, type(None)),
    "artifact": bytes,
}


def export(bank: Bank, tenant: str, memory_id: str, signer: Signer) -> bytes:
    """A bundle of a memory and its current artifact, signed by ``signer``.

    Raises `NotFoundError` for an unknown memory and for one without an artifact.
    """
    info = bank.get(tenant, memory_id)
    document, entries = bank.logs.snapshot(tenant, info.id)
    version = next((v for v in bank.versions.history(tenant, info.id) if v.current), None)
    if version is None:
        raise NotFoundError(f"memory {info.id} has no artifact yet: compile it first")
    with bank.artifact(tenant, info.id, version.version) as artifact:
        data = bytes(artifact.with_manifest(artifact.manifest))
    payload = {
        "tenant": tenant,
        "title": document.title,
        "name": info.name,
        "text": "" if info.running else document.text,
        "entries": [[e.number, e.said.isoformat(), e.speaker, e.text] for e in entries],
        "through": version.through,
        "since": version.since.isoformat() if version.since else None,
        "artifact": data,
    }
    packed = msgpack.packb(payload, use_bin_type=True)
    public = signer.key.public_key().public_bytes_raw().hex()
    signature = signer.key.sign(_CONTEXT + packed)
    bundle: bytes = msgpack.packb(
        {"format": FORMAT, "payload": packed, "key": public, "signature": signature}, use_bin_type=True
    )
    return bundle


def load(
    bank: Bank,
    tenant: str,
    data: bytes,
    trusted: Sequence[Ed25519PublicKey],
    embed: Embed,
    *,
    embedder: str,
    fingerprint: str | None = None,
) -> MemoryInfo:
    """Import a bundle's memory into a bank, for the tenant that exported it.

    ``embed`` chunks and embeds the source; ``embedder`` names what it embeds with. The artifact must be for
    the base model with ``fingerprint``, unless that is None. Raises `VerificationError` when no key of
    ``trusted`` signed the bundle, `ArtifactError` when it is malformed, `FingerprintError` for an artifact
    of another base model, and `ConfigError` for another tenant's bundle or a running memory that exists
    already. The bank is unchanged then.
    """
    payload = _opened(data, trusted)
    if payload["tenant"] != tenant:
        raise ConfigError("the bundle belongs to another user: import it in that user's name")
    artifact = Artifact.decode(payload["artifact"])
    if artifact.manifest.tenant != tenant:
        raise ArtifactError("the bundle's artifact was compiled for another user")
    if fingerprint is not None:
        artifact.require(fingerprint)
    if payload["name"] is None:
        document = Document(payload["text"], payload["title"])
        info = bank.remember(tenant, document, *embed(document), embedder=embedder)
        return bank.publish(tenant, info.id, payload["artifact"])
    if bank.logs.find(tenant, payload["name"]) is not None:
        raise ConfigError(f"there is a running memory {payload['name']!r} already: forget it first")
    entries = sorted(payload["entries"])
    messages = [Message(text, speaker, datetime.fromisoformat(when)) for _, when, speaker, text in entries]
    now = max(datetime.now(UTC), *(each.when for each in messages if each.when))
    info = bank.logs.append(tenant, payload["name"], messages, embed, embedder=embedder, now=now)
    seen = sum(number <= (payload["through"] or 0) for number, *_ in entries)  # here numbers start at 1
    since = datetime.fromisoformat(payload["since"]) if payload["since"] else None
    return bank.publish(tenant, info.id, payload["artifact"], CompiledFrom(seen, since))


def _opened(data: bytes, trusted: Sequence[Ed25519PublicKey]) -> dict[str, Any]:
    """The payload of a bundle, with its signature and all fields checked."""
    outer = _unpacked(data)
    if set(outer) != {"format", "payload", "key", "signature"} or not isinstance(outer["payload"], bytes):
        raise ArtifactError("this is not a bundle that `memkit export` wrote")
    if outer["format"] != FORMAT:
        raise ArtifactError(f"the bundle has format {outer['format']!r:.20}; this memkit reads {FORMAT}")
    if not isinstance(outer["key"], str) or not isinstance(outer["signature"], bytes):
        raise VerificationError("the bundle is not signed")
    verified_bytes(_CONTEXT + outer["payload"], outer["key"], outer["signature"], trusted)
    payload = _unpacked(outer["payload"])
    sound = set(payload) == set(_PAYLOAD) and all(isinstance(payload[k], t) for k, t in _PAYLOAD.items())
    if not sound or not all(_is_entry(each) for each in payload["entries"]):
        raise ArtifactError("the bundle's content is malformed")
    return payload


def _is_entry(raw: object) -> bool:
    if not isinstance(raw, list) or [type(each) for each in raw] != [int, str, str, str]:
        return False
    try:
        return datetime.fromisoformat(raw[1]).tzinfo is not None
    except ValueError:
        return False


def _unpacked(data: bytes) -> dict[str, Any]:
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True)
    except Exception as error:  # a third-party parser on untrusted bytes
        raise ArtifactError("this is not a bundle that `memkit export` wrote") from error
    if not isinstance(value, dict):
        raise ArtifactError("this is not a bundle that `memkit export` wrote")
    return value
