"""GGUF models, converted once into folders that load in seconds.

transformers parses a GGUF file several times and dequantizes it at each start. The conversion holds the same
weights, in the dtype that was asked for, as safetensors beside the configuration and the tokenizer; it gives
the same fingerprint, so artifacts fit both.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import transformers
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from memkit.errors import ModelError
from memkit.models.files import models_folder, read_record, sha256, stamp, write_record
from memkit.models.fingerprint import fingerprint
from memkit.models.quiet import quietly
from memkit.models.reading import read_model, read_tokenizer, readable

FORMAT = 1  # of conversions; raised also when the scheme of fingerprints changes
MANIFEST = "conversion.json"
_PARTIAL = ".partial"
_INCIDENTAL = ("_name_or_path", "transformers_version")  # of a configuration
log = logging.getLogger("memkit.models")


@dataclass(frozen=True)
class Conversion:
    """A model in a ``folder``, made of the GGUF file with the SHA-256 digest ``source``.

    ``files`` are the digests of its files, ``stamps`` their `memkit.models.files.stamp`. Without files it
    says that the model cannot be converted: saved and loaded again, it was another one.
    """

    folder: Path
    source: str
    dtype: str
    fingerprint: str
    files: dict[str, str]
    stamps: dict[str, list[int]]

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The conversion that a folder's manifest describes; None without a valid one."""
        record = read_record(folder / MANIFEST)
        source, dtype, identity = (record.get(name) for name in ("source", "dtype", "fingerprint"))
        files, stamps = record.get("files"), record.get("stamps")
        if not (isinstance(source, str) and isinstance(dtype, str) and isinstance(identity, str)):
            return None
        if not (isinstance(files, dict) and isinstance(stamps, dict) and set(files) == set(stamps)):
            return None
        return cls(folder, source, dtype, identity, files, stamps)

    def write(self) -> None:
        """Write the manifest. Raises `OSError`."""
        write_record(self.folder / MANIFEST, {n: v for n, v in asdict(self).items() if n != "folder"})

    def sound(self) -> bool:
        """Whether the folder holds its files and no others, unaltered.

        Files that look as they did (`memkit.models.files.stamp`) are not read.
        """
        try:
            stamps = {path.name: stamp(path) for path in self.folder.iterdir() if path.name != MANIFEST}
            if set(stamps) != set(self.files):
                return False
            changed = [name for name in stamps if stamps[name] != self.stamps[name]]
            return all(sha256(self.folder / name) == self.files[name] for name in changed)
        except OSError:
            return False


def converted(gguf: Path, dtype: str, cache: Path | None = None) -> Conversion | None:
    """The conversion of a GGUF file, made now unless there is one in ``cache`` (default: `Config.cache`).

    None where the file itself must be read: the cache cannot hold the conversion, which is logged as a
    warning, or the model cannot be converted. One process converts, others wait for it. Raises `ModelError`
    for a file that cannot be read.
    """
    try:
        folder = models_folder(cache)
        before = stamp(gguf)
        source = _source(gguf, folder)
        place = _place(source, dtype, folder)
        found = _existing(place, source, dtype)
        if found is None:
            with _alone(place):
                found = _existing(place, source, dtype) or _convert(gguf, source, before, dtype, place)
    except (OSError, SafetensorError) as error:
        log.warning(
            "the converted model of %s cannot be kept (%s): each start will take as long as this one; set "
            "MEMKIT_CACHE to a folder with room for it",
            gguf.name,
            error,
        )
        return None
    return found if found.files else None


def existing(gguf: Path, dtype: str, cache: Path | None = None) -> Conversion | None:
    """The conversion of a GGUF file if there is one; none is made."""
    try:
        folder = models_folder(cache)
        if not (folder / "converted").is_dir():
            return None
        source = _source(gguf, folder)
        found = _existing(_place(source, dtype, folder), source, dtype)
    except OSError:
        return None
    return found if found is not None and found.files else None


def _source(gguf: Path, folder: Path) -> str:
    """The SHA-256 digest of a GGUF file, computed when its `memkit.models.files.stamp` has changed."""
    path = str(gguf.resolve())
    record = folder / "sources" / f"{hashlib.sha256(path.encode()).hexdigest()[:32]}.json"
    known, now = read_record(record), stamp(gguf)
    if known.get("path") == path and known.get("stamp") == now and isinstance(known.get("sha256"), str):
        return str(known["sha256"])
    digest = sha256(gguf)
    with suppress(OSError):
        write_record(record, {"path": path, "stamp": now, "sha256": digest})
    return digest


def _place(source: str, dtype: str, folder: Path) -> Path:
    """The folder of a conversion. The libraries that read GGUF files decide what comes of them."""
    readers = f"{FORMAT} {transformers.__version__} {version('gguf')}"
    return folder / "converted" / f"{source[:32]}-{dtype}-{hashlib.sha256(readers.encode()).hexdigest()[:8]}"


def _existing(place: Path, source: str, dtype: str) -> Conversion | None:
    """The conversion in a folder, if it is one of this source and nobody altered it."""
    found = Conversion.read(place)
    if found is None:
        return None
    if (found.source, found.dtype) != (source, dtype) or not found.sound():
        log.warning("the converted model in %s was altered; it is not used", place)
        return None
    with suppress(OSError):
        stamps = {name: stamp(place / name) for name in found.files}
        if stamps != found.stamps:  # moved or touched: what was verified need not be read again
            found = Conversion(**{**vars(found), "stamps": stamps})
            found.write()
    return found


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Hold the lock of a conversion; the operating system releases that of a process that was killed."""
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{place}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for another process that converts the same model")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _convert(gguf: Path, source: str, before: list[int], dtype: str, place: Path) -> Conversion:
    """Convert a GGUF file, which looked like ``before`` when its digest was taken; the lock is held."""
    log.info("converting %s to %s, once; this can take minutes", gguf.name, dtype)
    _remove_partial(place)  # of a process that was killed
    partial = place.with_name(f"{place.name}.{uuid.uuid4().hex}{_PARTIAL}")
    partial.mkdir()
    try:
        with quietly():
            identity, faithful = _copy(gguf, dtype, partial)
        if stamp(gguf) != before:
            raise OSError(f"{gguf} was changed while it was read")
        if not faithful:
            log.warning("%s cannot be converted without a change: it is read itself at each start", gguf.name)
            for name in _files(partial):
                (partial / name).unlink()
        digests = {name: sha256(partial / name) for name in _files(partial)}
        stamps = {name: stamp(partial / name) for name in digests}
        Conversion(partial, source, dtype, identity, digests, stamps).write()
        if place.exists():  # altered
            place.rename(place.with_name(f"{place.name}.{uuid.uuid4().hex}{_PARTIAL}"))
        partial.rename(place)
    finally:
        _remove_partial(place)
    log.info("converted %s", gguf.name)
    return Conversion(place, source, dtype, identity, digests, stamps)


def _remove_partial(place: Path) -> None:
    for path in place.parent.glob(f"{place.name}.*{_PARTIAL}"):
        shutil.rmtree(path, ignore_errors=True)


def _copy(gguf: Path, dtype: str, folder: Path) -> tuple[str, bool]:
    """Write the model of a GGUF file to a folder: its fingerprint, and whether the copy is the same model.

    A model that transformers cannot save, or not load again, is not.
    """
    source, options = str(gguf.parent), {"gguf_file": gguf.name}
    with readable(f"the model {str(gguf)!r}"):
        model, tokenizer = read_model(source, dtype, options), read_tokenizer(source, options)
    identity = fingerprint(model, tokenizer)
    try:
        _save(model, tokenizer, folder)
        traits = _traits(model, tokenizer)
        del model  # as large as the copy
        with readable("the copy"):
            model, again = read_model(str(folder), dtype, {}), read_tokenizer(str(folder), {})
        return identity, fingerprint(model, again) == identity and _traits(model, again) == traits
    except (ImportError, ValueError, KeyError, RuntimeError, ModelError) as error:
        log.debug("%s cannot be copied", gguf.name, exc_info=error)
        return identity, False


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a model and its tokenizer to disk, readable by those who may read the folder."""
    model.save_pretrained(folder, max_shard_size="1TB")
    tokenizer.save_pretrained(folder)
    mode = (folder / "config.json").stat().st_mode
    for name in _files(folder):
        (folder / name).chmod(mode)  # safetensors keeps its own from everybody else
        with (folder / name).open("rb+") as file:
            os.fsync(file.fileno())


def _traits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[Any, ...]:
    """What decides how a model computes and its tokenizer encodes and decodes, beside the fingerprint."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in _INCIDENTAL}
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    return (
        config,
        tokenizer.special_tokens_map,
        getattr(tokenizer, "clean_up_tokenization_spaces", None),
        None if backend is None else backend.to_str(),
    )
