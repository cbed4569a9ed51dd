"""The prompt's header, which precedes every artifact: its keys and values, in a file.

A server loads the header's KV together with an artifact's. The file has the artifact format and is created
once for each model by ``memkit sglang-args``, as is the bank's secret.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memkit._version import __version__
from memkit.artifact.format import Artifact, Manifest
from memkit.engine.sglang.plugin.protocol import MIN_SECRET
from memkit.errors import ArtifactError, ConfigError
from memkit.models.kv_shape import kv_shape

if TYPE_CHECKING:
    from torch import Tensor

    from memkit.models.loading import LoadedModel

MAKER = "memkit.serving.prefix"  # stored in files as their compiler; must not change
TENANT = "memkit"  # the file belongs to no tenant
AXES = ("layer", "kv_head", "token", "head_dim")
SECRET = "secret"


@dataclass(frozen=True)
class Header:
    """The header's token ``ids``, and its ``keys`` and ``values``, ``[layer, kv_head, token, head_dim]``.

    ``fingerprint`` is the base model's, ``end`` the token that ends an answer, ``hidden`` the hidden size.
    """

    fingerprint: str
    ids: tuple[int, ...]
    end: int
    hidden: int
    keys: Tensor
    values: Tensor

    @classmethod
    def open(cls, path: str | Path) -> Header:
        """Read a file that `write` created. Raises `ArtifactError` when it is absent or malformed."""
        with Artifact.open(path) as artifact:
            manifest = artifact.manifest
            ids, end, hidden = (manifest.config.get(name) for name in ("ids", "end", "hidden"))
            if manifest.compiler != MAKER or not isinstance(ids, Sequence):
                raise ArtifactError(f"{path} holds no header; make it again: memkit sglang-args")
            if not isinstance(end, int) or not isinstance(hidden, int):
                raise ArtifactError(f"{path} holds no sound header; make it again: memkit sglang-args")
            keys, values = artifact.tensor("keys").clone(), artifact.tensor("values").clone()
        if keys.dim() != 4 or keys.shape != values.shape or keys.shape[2] != len(ids):
            raise ArtifactError(f"{path} holds a header of another shape; make it again: memkit sglang-args")
        return cls(manifest.fingerprint, tuple(int(str(i)) for i in ids), end, hidden, keys, values)


def write(base: LoadedModel, folder: Path) -> Path:
    """Write the header of a model to a file in ``folder``, unless it exists; returns the file.

    Raises `ConfigError` when it cannot be written.
    """
    import torch

    from memkit.engine.transformers import kv_cache

    path = folder / f"{base.fingerprint[:16]}.mka"
    if path.exists():
        return path
    ids, config = list(base.chat.header), base.model.config
    if ids:
        read = kv_cache.prefill(base.model, ids)
        keys, values = (torch.stack([layer[0] for layer in part]) for part in (read.keys, read.values))
    else:
        layers, heads, size = kv_shape(config)
        empty = torch.empty((layers, heads, 0, size), dtype=base.model.dtype)
        keys, values = empty, empty
    manifest = Manifest(
        kind="kv",
        compiler=MAKER,
        compiler_version=__version__,
        config={"ids": ids, "end": base.chat.end, "hidden": int(config.hidden_size)},
        seed=0,
        fingerprint=base.fingerprint,
        tokens=len(ids),
        tenant=TENANT,
        sources=(),
    )
    data = Artifact.encode(manifest, {"keys": (keys.cpu(), AXES), "values": (values.cpu(), AXES)})
    _place(path, data, 0o644)
    return path


def make_secret(folder: Path) -> Path:
    """Create the secret of a bank in ``folder``, unless it exists, readable by its owner only; the file.

    Raises `ConfigError` when it cannot be written.
    """
    path = folder / SECRET
    if not path.exists():
        _place(path, secrets.token_hex(32).encode(), 0o600)
    return path


def read_secret(path: str | Path) -> bytes:
    """A bank's secret. Raises `ConfigError` when it cannot be read or is too short."""
    try:
        secret = Path(path).read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"cannot read the secret {path}: {error.strerror}; memkit sglang-args makes it"
        ) from error
    if len(secret) < MIN_SECRET:
        raise ConfigError(f"the secret {path} has {len(secret)} bytes, at least {MIN_SECRET} are needed")
    return secret


def _place(path: Path, data: bytes, mode: int) -> None:
    """Create a file atomically; a file that another process created meanwhile is kept."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
