"""Attestation: Ed25519 signatures of artifacts, with keys in PEM files (the extra ``sign``).

The signed message is the manifest without its signature. It holds the digest of every tensor, so a signature
covers the whole artifact.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from memkit.artifact.format import Artifact, Manifest
from memkit.artifact.manifest import pack
from memkit.config import expanded
from memkit.errors import ConfigError, MissingExtraError, VerificationError, install_line

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_CONTEXT = b"memkit artifact signature 1\x00"


def _serialization() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise MissingExtraError("cryptography", install_line("sign")) from error
    return serialization


def _read(path: str | Path) -> bytes:
    try:
        return expanded(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the key {path}: {error.strerror}") from error


def _message(manifest: Manifest) -> bytes:
    return _CONTEXT + pack(replace(manifest, signature={}))


@dataclass(frozen=True)
class Signer:
    """Signs with one private key."""

    key: Ed25519PrivateKey

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read an unencrypted PEM file. Raises `ConfigError` for an unreadable file or another kind of
        key."""
        serialization, data = _serialization(), _read(path)
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        try:
            key = serialization.load_pem_private_key(data, password=None)
        except (ValueError, TypeError) as error:  # malformed, or encrypted
            raise ConfigError(f"{path} holds no unencrypted private key in PEM: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{path} holds a key of another kind; make one with: memkit keygen FILE")
        return cls(key)

    def sign(self, artifact: Artifact) -> bytes:
        """The bytes of the artifact with this key's signature in its manifest."""
        public = self.key.public_key().public_bytes_raw()
        value = self.key.sign(_message(artifact.manifest))
        signature = {"algorithm": "ed25519", "key": public.hex(), "value": value.hex()}
        return artifact.with_manifest(replace(artifact.manifest, signature=signature))


def generate(path: str | Path) -> tuple[Path, Path]:
    """Write a new private key (readable by its owner only) and the public key ``.pub``; returns both paths.

    Raises `ConfigError` when either file exists or cannot be written.
    """
    serialization = _serialization()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = expanded(path)
    public = Path(f"{private}.pub")
    key = Ed25519PrivateKey.generate()
    pem, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        for file, data, mode in (
            (private, secret, 0o600),
            (public, key.public_key().public_bytes(pem, form), 0o644),
        ):
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
                out.write(data)
    except OSError as error:
        raise ConfigError(f"cannot write {error.filename}: {error.strerror}") from error
    return private, public


def trusted_keys(paths: Sequence[str | Path]) -> tuple[Ed25519PublicKey, ...]:
    """Public keys from PEM files. Raises `ConfigError` for an unreadable file or another kind of key."""
    serialization = _serialization()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    keys = list[Ed25519PublicKey]()
    for path in paths:
        try:
            key = serialization.load_pem_public_key(_read(path))
        except ValueError as error:
            raise ConfigError(f"{path} holds no public key in PEM: {error}") from error
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigError(f"{path} holds a public key of another kind; Ed25519 is needed")
        keys.append(key)
    return tuple(keys)


def require_signed(manifest: Manifest, trusted: Sequence[Ed25519PublicKey]) -> None:
    """Raise `VerificationError` unless one of the ``trusted`` keys signed exactly this artifact."""
    signature = manifest.signature
    if not signature:
        raise VerificationError("the artifact is not signed")
    if signature.get("algorithm") != "ed25519":
        raise VerificationError(f"the signature's algorithm is {signature.get('algorithm')!r}, not ed25519")
    try:
        value = bytes.fromhex(str(signature.get("value")))
    except ValueError as error:
        raise VerificationError("the signature does not match: what it signs was altered") from error
    verified_bytes(_message(manifest), str(signature.get("key")), value, trusted)


def verified_bytes(message: bytes, key: str, value: bytes, trusted: Sequence[Ed25519PublicKey]) -> None:
    """Raise `VerificationError` unless ``value`` is a trusted ``key``'s signature of exactly these bytes."""
    from cryptography.exceptions import InvalidSignature

    public = {each.public_bytes_raw().hex(): each for each in trusted}.get(key)
    if public is None:
        raise VerificationError("the signature is by a key that is not trusted")
    try:
        public.verify(value, message)
    except InvalidSignature as error:
        raise VerificationError("the signature does not match: what it signs was altered") from error
