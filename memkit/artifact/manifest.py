"""Manifests: the metadata of an artifact, stored as msgpack.

Reading validates everything: exactly the known keys, their types, bounded sizes and depth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NoReturn, TypeAlias, get_args

import msgpack  # type: ignore[import-untyped]  # it ships no types

from memkit.errors import ArtifactError

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
Kind = Literal["kv", "ragged_kv", "embeds", "lora", "text"]

MAX_MANIFEST = 8 << 20  # bytes
MAX_DEPTH = 16  # levels of nesting in the manifest
MAX_ITEMS = 1 << 16  # entries in one map or list of the manifest
MAX_TENSOR = 1 << 48  # bytes, and the largest size of one axis

ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "int64": 8}
_WIRE_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "Kind": (str,),
    "int": (int,),
    "Mapping": (dict,),
    "tuple": (list,),
}


@dataclass(frozen=True)
class Provenance:
    """Characters ``[start, end)`` of the document with this digest."""

    document_digest: str
    start: int
    end: int


@dataclass(frozen=True)
class TensorSpec:
    """One tensor in the file; ``offset`` counts bytes from the start of the first tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    offset: int
    nbytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The metadata of an artifact."""

    kind: Kind
    compiler: str
    compiler_version: str
    config: Mapping[str, JSON]  # the compiler's hyper-parameters
    seed: int
    fingerprint: str  # of the base model
    tokens: int  # sequence positions that the artifact occupies
    tenant: str
    sources: tuple[Provenance, ...]  # what it was compiled from
    parent: str | None = None  # id of the artifact it replaces
    verification: Mapping[str, JSON] = field(default_factory=dict)  # figures of the admission gate
    metrics: Mapping[str, JSON] = field(default_factory=dict)  # figures of the compilation
    tensors: tuple[TensorSpec, ...] = ()  # filled in by `Artifact.encode`
    signature: Mapping[str, JSON] = field(default_factory=dict)  # see `memkit.artifact.signing`


_WANTED = {cls: {f.name: str(f.type) for f in fields(cls)} for cls in (Manifest, Provenance, TensorSpec)}


def refuse(reason: str) -> NoReturn:
    """Raise the `ArtifactError` for malformed content."""
    raise ArtifactError(f"not a sound artifact: {reason}")


def pack(manifest: Manifest) -> bytes:
    """The manifest's bytes, equal for equal manifests. Raises `ArtifactError` for an invalid manifest."""
    raw = {
        **vars(manifest),
        "sources": [vars(source) for source in manifest.sources],
        "tensors": [vars(spec) for spec in manifest.tensors],
    }
    plain = _plain(raw, "manifest")
    try:
        packed: bytes = msgpack.packb(plain, use_bin_type=True)
    except (ValueError, OverflowError) as error:  # a lone surrogate, an integer over 64 bits
        raise ArtifactError(f"the manifest cannot be written: {error}") from error
    if len(packed) > MAX_MANIFEST:
        raise ArtifactError(f"the manifest takes {len(packed)} bytes; the limit is {MAX_MANIFEST}")
    _checked(plain)
    return packed


def _plain(value: object, where: str, depth: int = 0) -> JSON:
    """Convert to dicts with sorted keys, lists and scalars. Raises `ArtifactError` for other values."""
    if depth > MAX_DEPTH:
        refuse(f"{where} is nested more than {MAX_DEPTH} levels deep")
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            refuse(f"{where} is {value}; only finite numbers can be stored")
        return value
    if isinstance(value, Mapping | list | tuple) and len(value) > MAX_ITEMS:
        refuse(f"{where} has {len(value)} entries; the limit is {MAX_ITEMS}")
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            refuse(f"{where} has a key that is not text")
        return {key: _plain(value[key], f"{where}.{key}", depth + 1) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{i}]", depth + 1) for i, item in enumerate(value)]
    refuse(f"{where} holds a {type(value).__name__}; use plain JSON values")


def unpack(packed: bytes) -> Manifest:
    """A manifest from untrusted bytes. Raises `ArtifactError` unless it is valid."""
    try:
        raw = msgpack.unpackb(
            packed,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_unique,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
        )
    except ArtifactError:
        raise
    except Exception as error:  # a third-party parser on untrusted bytes
        raise ArtifactError(f"not a sound artifact: the manifest is not msgpack ({error})") from error
    return _checked(_plain(raw, "manifest"))


def _unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        refuse("the manifest has a key twice")
    return result


def _fields(raw: object, cls: type[Any], where: str) -> dict[str, Any]:
    """The map's values if it has exactly the keys of that dataclass, with their types; else
    `ArtifactError`."""
    wanted = _WANTED[cls]
    if not isinstance(raw, dict):
        refuse(f"{where} is not a map")
    if wrong := sorted(set(raw) ^ set(wanted)):
        refuse(f"{where} {'lacks' if wrong[0] in wanted else 'has the unknown key'} {wrong[0]!r}")
    for name, annotation in wanted.items():
        value = raw[name]
        if type(value) not in _WIRE_TYPES[annotation.split("[")[0]]:
            refuse(f"{where}: {name} is a {type(value).__name__}, not {annotation}")
    return raw


def _checked(raw: object) -> Manifest:
    values = _fields(raw, Manifest, "the manifest")
    kind, tenant = values["kind"], values["tenant"]
    if kind not in get_args(Kind):
        refuse(f"the kind {kind!r} is none of {', '.join(get_args(Kind))}")
    if not 1 <= len(tenant) <= 256:
        refuse(f"the tenant has {len(tenant)} characters; 1 to 256 are allowed")
    if not 0 <= values["tokens"] <= MAX_TENSOR:
        refuse(f"it occupies {values['tokens']} tokens")
    tensors = tuple(_tensor_spec(item) for item in values["tensors"])
    if len({spec.name for spec in tensors}) != len(tensors):
        refuse("two tensors have the same name")
    sources = tuple(_provenance(item) for item in values["sources"])
    return Manifest(**{**values, "sources": sources, "tensors": tensors})


def _provenance(raw: object) -> Provenance:
    source = Provenance(**_fields(raw, Provenance, "a source"))
    if not 0 <= source.start <= source.end:
        refuse(f"a source spans the characters {source.start} to {source.end}")
    return source


def _tensor_spec(raw: object) -> TensorSpec:
    values = _fields(raw, TensorSpec, "a tensor")
    name, dtype, shape, axes = (values[key] for key in ("name", "dtype", "shape", "axes"))
    if dtype not in ITEMSIZE:
        refuse(f"tensor {name!r} has the unknown dtype {dtype!r}")
    if any(type(n) is not int or n < 0 for n in shape) or len(shape) > MAX_DEPTH:
        refuse(f"tensor {name!r} has a bad shape")
    if len(axes) != len(shape) or any(type(axis) is not str for axis in axes):
        refuse(f"tensor {name!r} has axes that do not match its shape")
    # torch multiplies the sizes even where one of them is 0
    if math.prod(max(n, 1) for n in shape) > MAX_TENSOR:
        refuse(f"tensor {name!r} is too large")
    if values["nbytes"] != math.prod(shape) * ITEMSIZE[dtype]:
        refuse(f"tensor {name!r} has {values['nbytes']} bytes, which its shape does not give")
    return TensorSpec(**{**values, "shape": tuple(shape), "axes": tuple(axes)})
