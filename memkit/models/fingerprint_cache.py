"""Fingerprints of models in folders and of the hub, kept so that a start need not hash all weights again."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import try_to_load_from_cache

from memkit.models.files import models_folder, read_record, stamp, write_record

SCHEME = 1  # raised when `memkit.models.fingerprint.fingerprint` changes
_MOST = 1000  # files; a folder of more is not that of a model
_WORTH = 2**25  # bytes; less is hashed in a fraction of a second, so nothing is kept about a toy model
_ADAPTER = "adapter_config.json"  # names a base model, whose files lie elsewhere


def identity_of(folder: Path, dtype: str, device: str) -> dict[str, Any] | None:
    """What identifies the files of a model as they are now; None where that is not known or not worth it.

    Every file in the folder and its subfolders counts, but for hidden ones', by its resolved path and its
    `memkit.models.files.stamp`. A file whose content was changed without a trace in size, times and inode is
    not noticed: that takes writing to the disk beneath the file system, or setting the clock back.
    """
    files = dict[str, list[int]]()
    try:
        for place, folders, names in os.walk(folder, followlinks=True):
            if len(files) + len(names) > _MOST or _ADAPTER in names:
                return None
            for name in names:
                path = Path(place, name)
                files[str(path.resolve())] = stamp(path)
            folders[:] = [each for each in folders if not each.startswith(".")]  # .git, .cache
    except OSError:
        return None
    if sum(size for size, *_ in files.values()) < _WORTH:
        return None
    return {
        "folder": str(folder.resolve()),
        "files": dict(sorted(files.items())),
        "dtype": dtype,
        "device": device.partition(":")[0],  # may decide how quantized weights are read
        "transformers": transformers.__version__,  # names the tensors
        "scheme": SCHEME,
    }


def hub_snapshot(name: str, commit: str | None) -> Path | None:
    """The folder in the hub's cache with a model's files of a commit; None if there is none."""
    try:
        config = try_to_load_from_cache(name, "config.json", revision=commit)
    except ValueError:  # not a hub id
        return None
    return Path(config).parent if commit and isinstance(config, str) else None


def cached_fingerprint(
    identity: dict[str, Any] | None, compute: Callable[[], str], cache: Path | None
) -> str:
    """The fingerprint that was computed for files with this identity, else that of ``compute``, which is
    kept.

    A record that cannot be read, or is of other files, counts as absent; one that cannot be written is
    left out.
    """
    if identity is None:
        return compute()
    try:
        record = _record(identity, models_folder(cache))
    except OSError:
        return compute()
    found = read_record(record)
    known = found.get("fingerprint")
    if found.get("identity") == identity and _valid(known):
        return str(known)
    computed = compute()
    with suppress(OSError):
        write_record(record, {"identity": identity, "fingerprint": computed})
    return computed


def _record(identity: dict[str, Any], folder: Path) -> Path:
    """The file of a record: one for each folder, dtype and so on, replaced when the model's files change."""
    constant = {name: value for name, value in identity.items() if name != "files"}
    key = hashlib.sha256(json.dumps(constant, sort_keys=True).encode()).hexdigest()
    return folder / "fingerprints" / f"{key[:32]}.json"


def _valid(text: Any) -> bool:
    return isinstance(text, str) and len(text) == 64 and set(text) <= set("0123456789abcdef")
