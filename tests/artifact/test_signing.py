"""Signatures: made, checked, refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from memkit.artifact.format import Artifact
from memkit.artifact.signing import Signer, generate, require_signed, trusted_keys
from memkit.errors import ConfigError, VerificationError
from memkit.memory import Memory
from memkit.pipeline.admission import AdmissionConfig
from memkit.testing import TEXT, TINY_LCC, TINY_OPTIONS


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return generate(tmp_path / "key")


@pytest.fixture
def signed(tmp_path: Path, tiny_model_folder: Path, keys: tuple[Path, Path]) -> Iterator[Artifact]:
    with Memory(
        tmp_path / "bank",
        str(tiny_model_folder),
        "mira",
        **TINY_LCC,
        admission=AdmissionConfig(questions=4, answer_tokens=4),
        signer=Signer.from_file(keys[0]),
    ) as memory:
        info = memory.remember(TEXT, wait=True)
        assert memory.verify(info.id, replay=True).replayed
        assert memory.ask("Where does Mira live?").route == "latent"
        with memory.bank.artifact("mira", info.id) as artifact:
            yield artifact


def test_a_signed_artifact_is_accepted(signed: Artifact, keys: tuple[Path, Path]) -> None:
    require_signed(signed.manifest, trusted_keys([keys[1]]))


def test_what_no_trusted_key_signed_is_refused(
    signed: Artifact, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    _, stranger = generate(tmp_path / "other")
    trusted = trusted_keys([keys[1]])
    manifest = signed.manifest
    with pytest.raises(VerificationError, match="not trusted"):
        require_signed(manifest, trusted_keys([stranger]))
    with pytest.raises(VerificationError, match="not signed"):
        require_signed(replace(manifest, signature={}), trusted)
    for changed in (
        replace(manifest, tenant="jalo"),
        replace(manifest, tensors=(replace(manifest.tensors[0], sha256="0" * 64), *manifest.tensors[1:])),
        replace(manifest, signature={**manifest.signature, "value": "00" * 64}),
        replace(manifest, signature={**manifest.signature, "value": "no hex"}),
    ):
        with pytest.raises(VerificationError, match="altered"):
            require_signed(changed, trusted)
    with pytest.raises(VerificationError, match="algorithm"):
        require_signed(replace(manifest, signature={**manifest.signature, "algorithm": "none"}), trusted)


def test_keys_are_private_and_never_overwritten(keys: tuple[Path, Path]) -> None:
    assert keys[0].stat().st_mode & 0o077 == 0
    with pytest.raises(ConfigError, match="File exists"):
        generate(keys[0])


def test_keys_of_another_kind(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    other = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    private, public, rubbish = tmp_path / "ec", tmp_path / "ec.pub", tmp_path / "rubbish"
    private.write_bytes(
        other.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(other.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    rubbish.write_text("no key")
    with pytest.raises(ConfigError, match="another kind"):
        Signer.from_file(private)
    with pytest.raises(ConfigError, match="another kind"):
        trusted_keys([public])
    for read in (Signer.from_file, lambda path: trusted_keys([path])):
        with pytest.raises(ConfigError, match="PEM"):
            read(rubbish)
        with pytest.raises(ConfigError, match="cannot read"):
            read(tmp_path / "absent")
    with pytest.raises(ConfigError, match="PEM"):
        Signer.from_file(keys[1])  # the public one


def test_cli_signs_and_requires_signatures(
    cli: Callable[..., object], document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*words: object) -> object:
        return cli(*words)

    options = [word for key, value in TINY_OPTIONS.items() for word in ("--option", f"{key}={value}")]
    key = tmp_path / "key"
    assert run("keygen", key).code == 0  # type: ignore[attr-defined]
    unsigned = run("remember", document, "--wait", "--always", "--json", *options).json["memory"]["id"]  # type: ignore[attr-defined]
    done = run("verify", unsigned, "--require-signed", "--trust", f"{key}.pub")
    assert done.code != 0  # type: ignore[attr-defined]
    assert "not signed" in done.out  # type: ignore[attr-defined]
    monkeypatch.setenv("MEMKIT_SIGNING_KEY", str(key))
    other = tmp_path / "other.txt"
    other.write_text(TEXT.replace("Mira", "Tovi"))
    signed = run("remember", other, "--wait", "--always", "--json", *options).json["memory"]["id"]  # type: ignore[attr-defined]
    assert run("verify", signed, "--require-signed", "--trust", f"{key}.pub").code == 0  # type: ignore[attr-defined]
    assert run("verify", signed, "--require-signed").code == 2  # type: ignore[attr-defined]
