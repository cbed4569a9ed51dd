"""Artifacts: the output of a compiler, in one file with digests.

    offset  bytes  content
    0       4      magic  b"MKA\\x00"
    4       4      format version, unsigned, little-endian
    8       8      length of the manifest in bytes, unsigned, little-endian
    16      32     SHA-256 of the manifest
    48      ...    manifest, a msgpack map, then zeros up to a multiple of 64
    ...     ...    tensors, raw little-endian, in the manifest's order, zeros between them so that
                   each starts at a multiple of 64

Every byte is covered by a digest or must be zero, so an altered file is always refused. An artifact's id is
the SHA-256 of the whole file.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import struct
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from memkit.artifact.manifest import (
    ITEMSIZE,
    JSON,
    MAX_MANIFEST,
    Kind,
    Manifest,
    Provenance,
    TensorSpec,
    pack,
    refuse,
    unpack,
)
from memkit.errors import ArtifactError, FingerprintError

if TYPE_CHECKING:
    import torch

__all__ = ["FORMAT_VERSION", "JSON", "Artifact", "Kind", "Manifest", "Provenance", "TensorSpec"]

FORMAT_VERSION = 1
_MAGIC = b"MKA\x00"
_HEADER = struct.Struct("<4sIQ32s")
_ALIGN = 64
MAX_COPIED = 1 << 20  # bytes up to which a file is read, not mapped: faster than page faults


class Artifact:
    """A decoded artifact, created by `decode` or `open`.

    Tensors may share the artifact's memory: clone one before writing to it. They stay valid after
    `close`, which only releases the artifact's own reference to the file.
    """

    def __init__(
        self, manifest: Manifest, view: memoryview, start: int, source: mmap.mmap | None = None
    ) -> None:
        self.manifest = manifest
        self._view, self._start, self._source = view, start, source
        self._specs = {spec.name: spec for spec in manifest.tensors}
        self._id: str | None = None

    @classmethod
    def encode(cls, manifest: Manifest, tensors: Mapping[str, tuple[torch.Tensor, tuple[str, ...]]]) -> bytes:
        """The bytes of an artifact's file; equal manifests and tensors give equal bytes.

        ``tensors`` maps a name to a tensor of any shape and the names of its axes. Raises `ArtifactError` for
        an unsupported dtype or layout, or an invalid manifest.
        """
        specs, parts, end = list[TensorSpec](), list[bytes](), 0
        for name in sorted(tensors):
            tensor, axes = tensors[name]
            data, offset = _tensor_bytes(name, tensor), _aligned(end)
            parts += [bytes(offset - end), data]
            shape, dtype = tuple(tensor.shape), _dtype_name(tensor)
            digest = hashlib.sha256(data).hexdigest()
            specs.append(TensorSpec(name, dtype, shape, tuple(axes), offset, len(data), digest))
            end = offset + len(data)
        packed = pack(replace(manifest, tensors=tuple(specs)))
        header = _HEADER.pack(_MAGIC, FORMAT_VERSION, len(packed), hashlib.sha256(packed).digest())
        written = len(header) + len(packed)
        return b"".join([header, packed, bytes(_aligned(written) - written), *parts])

    @classmethod
    def decode(cls, data: bytes | bytearray | memoryview, *, verify_tensors: bool = True) -> Artifact:
        """Verify and read an artifact's bytes. Raises `ArtifactError` for any deviation from the format.

        ``verify_tensors=False`` skips the tensors' digests, and so does not read their pages.
        """
        view = memoryview(data)
        view = view.cast("B") if view.c_contiguous else memoryview(view.tobytes())
        manifest, start = _read(view)
        artifact = cls(manifest, view, start)
        if verify_tensors:
            artifact._verify()
        return artifact

    @classmethod
    def open(cls, path: str | Path, *, verify_tensors: bool = True) -> Artifact:
        """Like `decode` for a file, memory-mapped unless small. Use as a context manager, or `close` it."""
        source: mmap.mmap | None = None
        try:
            with open(path, "rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if size > MAX_COPIED:
                    # A private writable mapping: torch accepts it, and no write reaches the file.
                    source = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
                data = memoryview(source or bytearray(file.readall()))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise ArtifactError(f"cannot read the artifact {path}: {why}") from error
        try:
            artifact = cls.decode(data, verify_tensors=verify_tensors)
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error}") from error
        artifact._source = source
        return artifact

    @property
    def id(self) -> str:
        """SHA-256 of the whole file, in hex."""
        if self._id is None:
            self._id = hashlib.sha256(self._bytes()).hexdigest()
        return self._id

    def set_verified_id(self, artifact_id: str) -> None:
        """Set the id without reading the file, for a caller that has verified it before."""
        self._id = artifact_id

    @property
    def nbytes(self) -> int:
        """The size of the whole file in bytes."""
        return len(self._bytes())

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor with that name, in its stored dtype and shape, on the CPU. Raises `ArtifactError`."""
        _require_little_endian()
        spec = self._specs.get(name)
        if spec is None:
            known = ", ".join(self._specs) or "none"
            raise ArtifactError(f"the artifact has no tensor {name!r} (it has: {known})")
        data = self._slice(spec)
        import torch

        dtype: torch.dtype = getattr(torch, spec.dtype)
        if not spec.nbytes:
            return torch.empty(spec.shape, dtype=dtype)
        # torch would let callers write through to immutable bytes
        buffer = bytearray(data) if data.readonly else data
        return torch.frombuffer(buffer, dtype=dtype).reshape(spec.shape)

    def with_manifest(self, manifest: Manifest) -> bytes:
        """The bytes of an artifact with these tensors and another manifest."""
        return self.encode(manifest, {name: (self.tensor(name), s.axes) for name, s in self._specs.items()})

    def require(self, fingerprint: str) -> None:
        """Raise `FingerprintError` unless the artifact was compiled for this base model."""
        if self.manifest.fingerprint != fingerprint:
            raise FingerprintError(
                f"the artifact was compiled for base model {self.manifest.fingerprint}, "
                f"this engine runs {fingerprint}; recompile it for this model"
            )

    def close(self) -> None:
        """Release the file; may be called again. Tensors that were read before stay valid."""
        self._view.release()
        source, self._source = self._source, None
        if source is not None:
            with contextlib.suppress(BufferError):  # a tensor still uses the mapping and will close it
                source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        m = self.manifest
        return f"<Artifact {m.kind} by {m.compiler} {m.compiler_version}, {m.tokens} tokens>"

    def _bytes(self) -> memoryview:
        try:
            return self._view[:]
        except ValueError as error:
            raise ArtifactError("the artifact is closed") from error

    def _slice(self, spec: TensorSpec) -> memoryview:
        start = self._start + spec.offset
        return self._bytes()[start : start + spec.nbytes]

    def _verify(self) -> None:
        for spec in self.manifest.tensors:
            if hashlib.sha256(self._slice(spec)).hexdigest() != spec.sha256:
                refuse(f"tensor {spec.name!r} does not match its digest: the bytes were altered")
        self._id = hashlib.sha256(self._view).hexdigest()


def _require_little_endian() -> None:
    if sys.byteorder != "little":
        raise ArtifactError("artifacts hold little-endian tensors; this machine is big-endian")


def _aligned(position: int) -> int:
    return -(-position // _ALIGN) * _ALIGN


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _tensor_bytes(name: str, tensor: torch.Tensor) -> bytes:
    """The row-major little-endian bytes of a tensor of any shape."""
    _require_little_endian()
    import torch

    if _dtype_name(tensor) not in ITEMSIZE:
        raise ArtifactError(
            f"tensor {name!r} is {_dtype_name(tensor)}; an artifact holds {', '.join(ITEMSIZE)}"
        )
    if tensor.layout != torch.strided:
        raise ArtifactError(f"tensor {name!r} is {tensor.layout}; an artifact holds dense tensors")
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    data: bytes = flat.view(torch.uint8).numpy().tobytes()
    return data


def _read(view: memoryview) -> tuple[Manifest, int]:
    """The manifest and the offset of the first tensor; verifies everything but the tensors' digests."""
    if len(view) < _HEADER.size:
        refuse(f"{len(view)} bytes are fewer than its header's {_HEADER.size}")
    magic, version, length, digest = _HEADER.unpack_from(view)
    if magic != _MAGIC:
        refuse("it does not start with the artifact magic")
    if version > FORMAT_VERSION:
        raise ArtifactError(f"written by a newer memkit, format {version}; upgrade memkit")
    if version != FORMAT_VERSION:
        refuse(f"format {version} is unknown")
    if length > min(MAX_MANIFEST, len(view) - _HEADER.size):
        refuse(f"its manifest of {length} bytes is cut off or too long")
    end = _HEADER.size + length
    packed = view[_HEADER.size : end].tobytes()
    if hashlib.sha256(packed).digest() != digest:
        refuse("the manifest does not match its digest: the bytes were altered")
    manifest, start = unpack(packed), _aligned(end)
    _check_zero(view, end, start)
    _check_layout(view, manifest.tensors, start)
    return manifest, start


def _check_zero(view: memoryview, start: int, end: int) -> None:
    if end > len(view):
        refuse(f"it is cut off: {len(view)} bytes, at least {end} expected")
    if any(view[start:end]):
        refuse(f"its padding at byte {start} is not zero")


def _check_layout(view: memoryview, tensors: tuple[TensorSpec, ...], start: int) -> None:
    """Refuse a layout in which tensors are not consecutive, aligned to 64 bytes, up to the end of the
    file."""
    end = 0
    for spec in tensors:
        if spec.offset != _aligned(end):
            refuse(f"tensor {spec.name!r} starts at {spec.offset}, not at {_aligned(end)}")
        _check_zero(view, start + end, start + spec.offset)
        end = spec.offset + spec.nbytes
    if start + end != len(view):
        refuse(f"it has {len(view)} bytes where its tensors end at {start + end}")
