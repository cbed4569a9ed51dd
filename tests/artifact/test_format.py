"""The artifact file: whatever the bytes are, a sound artifact or an `ArtifactError`."""

from __future__ import annotations

import hashlib
import math
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it ships no types
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import memkit.artifact.format
from memkit.artifact.format import FORMAT_VERSION, Artifact, Manifest, Provenance
from memkit.errors import ArtifactError, FingerprintError

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int64]
MANIFEST = Manifest(
    kind="kv",
    compiler="lcc",
    compiler_version="1",
    config={"rank": 8, "lr": 5e-3, "nested": {"on": True, "list": [1, None, "x"]}},
    seed=7,
    fingerprint="model-a",
    tokens=3,
    tenant="alice",
    sources=(Provenance("ab" * 32, 0, 12),),
    parent="cd" * 32,
    verification={"kl": 0.25},
    metrics={"seconds": 1.5},
)


def tensors() -> dict[str, tuple[torch.Tensor, tuple[str, ...]]]:
    generator = torch.Generator().manual_seed(0)
    return {
        "keys": (torch.randn(2, 3, 5, generator=generator), ("layer", "token", "dim")),
        "values": (torch.randn(7, generator=generator).bfloat16(), ("dim",)),
        "scale": (torch.tensor(4, dtype=torch.int64), ()),
        "empty": (torch.empty(0, 4), ("row", "column")),
    }


@pytest.fixture(scope="module")
def data() -> bytes:
    return Artifact.encode(MANIFEST, tensors())


@st.composite
def any_tensor(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    dtype = draw(st.sampled_from(DTYPES))
    size = math.prod(shape) * dtype.itemsize
    raw = draw(st.binary(min_size=size, max_size=size))
    if not size:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def repacked(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The artifact with an altered manifest under correct digests."""
    length = struct.unpack_from("<Q", data, 8)[0]
    manifest = msgpack.unpackb(data[48 : 48 + length])
    changed = change(manifest)
    return container(
        msgpack.packb(manifest if changed is None else changed), data[-(-(48 + length) // 64) * 64 :]
    )


def container(packed: bytes, rest: bytes = b"") -> bytes:
    header = struct.pack("<4sIQ32s", b"MKA\x00", 1, len(packed), hashlib.sha256(packed).digest())
    return header + packed + bytes(-(48 + len(packed)) % 64) + rest


def test_round_trip(data: bytes) -> None:
    artifact = Artifact.decode(data)
    assert replace(artifact.manifest, tensors=()) == MANIFEST
    assert artifact.id == hashlib.sha256(data).hexdigest()
    assert artifact.nbytes == len(data)
    for name, (tensor, axes) in tensors().items():
        stored = artifact.tensor(name)
        assert stored.dtype == tensor.dtype
        assert torch.equal(stored, tensor)
        spec = next(s for s in artifact.manifest.tensors if s.name == name)
        assert spec.axes == axes
        assert spec.shape == tuple(tensor.shape)
        assert spec.offset % 64 == 0


@given(
    st.dictionaries(st.text(max_size=8).filter(lambda s: s.isprintable()), any_tensor(), max_size=4),
    st.sampled_from(["kv", "embeds", "lora", "text"]),
    st.integers(-(2**63), 2**64 - 1),
    st.text(min_size=1, max_size=256),
)
@settings(max_examples=80, deadline=None)
def test_any_tensors_round_trip(named: dict[str, torch.Tensor], kind: Any, seed: int, tenant: str) -> None:
    manifest = replace(MANIFEST, kind=kind, seed=seed, tenant=tenant)
    given_ = {n: (t, tuple("abcd"[: t.ndim])) for n, t in named.items()}
    try:
        encoded = Artifact.encode(manifest, given_)
    except ArtifactError:  # a lone surrogate cannot be written
        assert any("\ud800" <= c <= "\udfff" for c in tenant + "".join(named))
        return
    artifact = Artifact.decode(encoded)
    assert replace(artifact.manifest, tensors=()) == manifest
    for name, tensor in named.items():
        stored = artifact.tensor(name)
        assert (stored.dtype, stored.shape) == (tensor.dtype, tensor.shape)
        assert bits(stored) == bits(tensor)
    assert Artifact.encode(artifact.manifest, given_) == encoded


def test_equal_inputs_give_equal_bytes(data: bytes) -> None:
    config = dict(reversed(list(MANIFEST.config.items())))
    backwards = dict(reversed(list(tensors().items())))
    assert Artifact.encode(replace(MANIFEST, config=config), backwards) == data


def test_views_are_written_as_they_read() -> None:
    tensor = torch.arange(12, dtype=torch.float32).reshape(3, 4).T[::2].requires_grad_()
    artifact = Artifact.decode(Artifact.encode(MANIFEST, {"x": (tensor, ("a", "b"))}))
    assert torch.equal(artifact.tensor("x"), tensor)


def test_every_flipped_bit_is_detected(data: bytes) -> None:
    altered = bytearray(data)
    for position in range(len(data) * 8):
        altered[position // 8] ^= 1 << position % 8
        with pytest.raises(ArtifactError):
            Artifact.decode(bytes(altered))
        altered[position // 8] ^= 1 << position % 8
    Artifact.decode(bytes(altered))


def test_every_truncation_and_extension_is_detected(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(ArtifactError):
            Artifact.decode(data[:length])
    for extra in (b"\x00", bytes(64), b"x"):
        with pytest.raises(ArtifactError):
            Artifact.decode(data + extra)


def sound(candidate: bytes) -> None:
    """Either refused, or everything in it can be used."""
    try:
        artifact = Artifact.decode(candidate)
    except ArtifactError:
        return
    for spec in artifact.manifest.tensors:
        assert artifact.tensor(spec.name).shape == spec.shape
    Artifact.decode(Artifact.encode(artifact.manifest, {}))


@given(st.binary(max_size=400))
def test_random_bytes(candidate: bytes) -> None:
    sound(candidate)


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary(max_size=200) | JSON_VALUES.map(msgpack.packb), st.binary(max_size=64))
@settings(deadline=None)
def test_random_manifests_under_a_correct_digest(packed: bytes, rest: bytes) -> None:
    sound(container(packed, rest))


@given(st.data())
@settings(max_examples=250, deadline=None)
def test_random_fields_under_a_correct_digest(draw: st.DataObject) -> None:
    data = Artifact.encode(MANIFEST, tensors())
    odd = st.sampled_from([-1, 0, 1, 64, 2**32, 2**63, 2**64 - 1, "", [], {}, True]) | JSON_VALUES

    def change(manifest: dict[str, Any]) -> None:
        part = draw.draw(st.sampled_from([manifest, *manifest["tensors"], *manifest["sources"]]))
        part[draw.draw(st.sampled_from(sorted(part)))] = draw.draw(odd)

    sound(repacked(data, change))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.pop("seed"), "lacks 'seed'"),
        (lambda m: m.update(surprise=1), "unknown key 'surprise'"),
        (lambda m: m.update(kind="pickle"), "kind 'pickle'"),
        (lambda m: m.update(tenant=""), "tenant"),
        (lambda m: m.update(seed=True), "seed is a bool"),
        (lambda m: m.update(tokens=-1), "tokens"),
        (lambda m: m.update(metrics={"kl": math.nan}), "finite"),
        (lambda m: m["tensors"][1].update(nbytes=8), "which its shape does not give"),
        (lambda m: m["tensors"][1].update(offset=1), "starts at 1"),
        (lambda m: m["tensors"][3].update(offset=0), "starts at 0"),
        (lambda m: m["tensors"][1].update(dtype="object"), "dtype 'object'"),
        (lambda m: m["tensors"][0].update(shape=[0, 2**62]), "too large"),
        (lambda m: m["tensors"][0].update(axes=["row"]), "axes"),
        (lambda m: m["tensors"][1].update(name="empty"), "same name"),
        (lambda m: m["sources"][0].update(start=99), "spans"),
        (lambda m: [m], "is not a map"),
    ],
)
def test_broken_manifests(data: bytes, change: Callable[[dict[str, Any]], Any], reason: str) -> None:
    def applied(manifest: dict[str, Any]) -> object:
        changed = change(manifest)
        return changed if isinstance(changed, list) else None

    with pytest.raises(ArtifactError, match=reason):
        Artifact.decode(repacked(data, applied))


def test_hostile_msgpack(data: bytes) -> None:
    nested: Any = "x"
    for _ in range(20):
        nested = {"a": nested}
    with pytest.raises(ArtifactError, match="levels deep"):
        Artifact.decode(repacked(data, lambda m: m.update(config=nested)))
    for packed in (b"\x91" * 5000, b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc7\x03\xffabc"):
        with pytest.raises(ArtifactError):
            Artifact.decode(container(packed))
    twice = b"\x82" + msgpack.packb("a") + b"\x01" + msgpack.packb("a") + b"\x02"
    with pytest.raises(ArtifactError, match="key twice"):
        Artifact.decode(container(twice))


def test_newer_format(data: bytes) -> None:
    newer = data[:4] + struct.pack("<I", FORMAT_VERSION + 1) + data[8:]
    with pytest.raises(ArtifactError, match="newer memkit, format 2; upgrade memkit"):
        Artifact.decode(newer)


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (replace(MANIFEST, metrics={"loss": math.inf}), "metrics.loss is inf"),
        (replace(MANIFEST, config={"path": Path()}), "config.path holds a"),  # type: ignore[dict-item]
        (replace(MANIFEST, seed=2**70), "cannot be written"),
        (replace(MANIFEST, compiler="\ud800"), "cannot be written"),
        (replace(MANIFEST, kind="other"), "kind 'other'"),  # type: ignore[arg-type]
        (replace(MANIFEST, config={"x": "y" * (9 << 20)}), "limit"),
    ],
)
def test_manifests_that_cannot_be_stored(manifest: Manifest, reason: str) -> None:
    with pytest.raises(ArtifactError, match=reason):
        Artifact.encode(manifest, {})


def test_tensors_that_cannot_be_stored() -> None:
    for tensor, axes in (
        (torch.zeros(2, dtype=torch.float64), ("a",)),
        (torch.zeros(2, 2).to_sparse(), ("a", "b")),
        (torch.zeros(2, 2), ("a",)),
    ):
        with pytest.raises(ArtifactError):
            Artifact.encode(MANIFEST, {"x": (tensor, axes)})


def test_unverified_decode_skips_only_the_tensors(data: bytes) -> None:
    altered = data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(ArtifactError, match="tensor 'values' does not match"):
        Artifact.decode(altered)
    assert Artifact.decode(altered, verify_tensors=False).id == hashlib.sha256(altered).hexdigest()
    with pytest.raises(ArtifactError):
        Artifact.decode(data[:60] + b"!" + data[61:], verify_tensors=False)


@pytest.mark.parametrize("read_up_to", [0, memkit.artifact.format.MAX_COPIED])  # mapped, and read
def test_open_leaves_the_file_alone(
    data: bytes, tmp_path: Path, read_up_to: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memkit.artifact.format, "MAX_COPIED", read_up_to)
    path = tmp_path / "a.mka"
    path.write_bytes(data)
    with Artifact.open(path) as artifact:
        keys = artifact.tensor("keys")
        assert artifact.tensor("keys").data_ptr() == keys.data_ptr()
        keys.zero_()
    artifact.close()
    assert path.read_bytes() == data
    assert keys.sum() == 0  # still valid after close
    with pytest.raises(ArtifactError, match="closed"):
        artifact.tensor("keys")


def test_open_refuses_what_is_no_artifact(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "cut").write_bytes(data[:-1])
    for name in ("missing", "."):
        with pytest.raises(ArtifactError, match="cannot read"):
            Artifact.open(tmp_path / name)
    for name in ("empty", "cut"):
        with pytest.raises(ArtifactError, match=f"{name}: not a sound"):
            Artifact.open(tmp_path / name)


def test_immutable_bytes_stay_as_they_are(data: bytes) -> None:
    artifact = Artifact.decode(data)
    artifact.tensor("keys").zero_()
    assert artifact.tensor("keys").abs().sum() > 0


def test_views_of_any_layout_decode(data: bytes) -> None:
    spread = memoryview(b"".join(bytes([byte, 0]) for byte in data))[::2]
    assert Artifact.decode(spread).id == Artifact.decode(bytearray(data)).id


def test_unknown_tensor(data: bytes) -> None:
    with pytest.raises(ArtifactError, match="no tensor 'queries'"):
        Artifact.decode(data).tensor("queries")


def test_require_names_both_fingerprints(data: bytes) -> None:
    artifact = Artifact.decode(data)
    artifact.require("model-a")
    with pytest.raises(FingerprintError, match=r"model-a.*model-b"):
        artifact.require("model-b")


def test_big_endian_hosts_are_refused(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "byteorder", "big")
    with pytest.raises(ArtifactError, match="big-endian"):
        Artifact.decode(data).tensor("keys")


def test_neither_import_nor_decode_needs_torch(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.mka").write_bytes(data)
    code = (
        "import sys; from memkit.artifact.format import Artifact; Artifact.open(sys.argv[1]); "
        "assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.mka")], check=True, env=environment)
