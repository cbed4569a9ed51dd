"""GGUF models are converted once, into the same model; nothing half-made or altered is ever used."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("gguf")
from gguf_kit import build_tiny_gguf

from memkit.errors import ModelError
from memkit.models import conversion, loading
from memkit.models.conversion import MANIFEST, Conversion, converted
from memkit.models.files import sha256
from memkit.models.fingerprint import fingerprint
from memkit.models.loading import LoadedModel, load, load_tokenizer, served_path
from memkit.models.reading import read_model
from memkit.testing import TEXT

Fail = Callable[..., Any]


@pytest.fixture(scope="module")
def tiny_gguf(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_gguf(tiny_model_folder, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def direct(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """The model as read from the GGUF file: its cache cannot hold a conversion."""
    blocked = tmp_path_factory.mktemp("blocked") / "file"
    blocked.write_text("")
    return load(str(tiny_gguf), cache=blocked)


@pytest.fixture(scope="module")
def made(tiny_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the conversion."""
    cache = tmp_path_factory.mktemp("made")
    assert converted(tiny_gguf, "float32", cache) is not None
    return cache


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    """A cache of its own with the conversion."""
    return Path(shutil.copytree(made, tmp_path / "store"))


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The GGUF files that are read from here on."""
    seen = list[str]()

    def counted(source: str, dtype: str, options: dict[str, Any]) -> Any:
        seen.extend([options["gguf_file"]] if options else [])
        return read_model(source, dtype, options)

    monkeypatch.setattr(conversion, "read_model", counted)
    monkeypatch.setattr(loading, "read_model", counted)
    return seen


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that are hashed from here on."""
    seen = list[str]()

    def counted(path: Path) -> str:
        seen.append(path.name)
        return sha256(path)

    monkeypatch.setattr(conversion, "sha256", counted)
    return seen


def folder_of(store: Path) -> Path:
    (folder,) = (path for path in (store / "models" / "converted").iterdir() if path.is_dir())
    return folder


def logits(base: LoadedModel) -> torch.Tensor:
    with torch.no_grad():
        ids = torch.tensor([base.tokenizer.encode(TEXT)])
        return torch.as_tensor(base.model(ids).logits)


def same(one: LoadedModel, other: LoadedModel) -> bool:
    return one.fingerprint == other.fingerprint and torch.equal(logits(one), logits(other))


# --- the same model ------------------------------------------------------------------------------
def test_it_is_the_same_model(store: Path, tiny_gguf: Path, direct: LoadedModel, readings: list[str]) -> None:
    loaded = load(str(tiny_gguf), cache=store)
    assert readings == []
    assert same(loaded, direct)
    assert loaded.fingerprint == fingerprint(loaded.model, loaded.tokenizer)
    assert (loaded.chat, loaded.window, loaded.name) == (direct.chat, 512, str(tiny_gguf))
    assert loaded.tokenizer.get_vocab() == direct.tokenizer.get_vocab()


def test_each_dtype_has_a_conversion_of_its_own(store: Path, tiny_gguf: Path, readings: list[str]) -> None:
    first, again = (load(str(tiny_gguf), dtype="bfloat16", cache=store) for _ in range(2))
    assert readings == ["tiny.gguf"]
    assert first.model.dtype == again.model.dtype == torch.bfloat16
    assert first.fingerprint == again.fingerprint == fingerprint(again.model, again.tokenizer)
    assert first.fingerprint != load(str(tiny_gguf), cache=store).fingerprint
    assert torch.equal(logits(first), logits(again))


def test_the_setting_names_the_cache(tiny_gguf: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMKIT_CACHE", str(store))
    assert converted(tiny_gguf, "float32") == Conversion.read(folder_of(store))


def test_the_tokenizer_alone_comes_from_it(
    store: Path, tiny_gguf: Path, direct: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMKIT_CACHE", str(store))
    tokenizer, chat = load_tokenizer(str(tiny_gguf))
    assert tokenizer.name_or_path == str(folder_of(store))
    assert (tokenizer.get_vocab(), chat) == (direct.tokenizer.get_vocab(), direct.chat)
    monkeypatch.setenv("MEMKIT_CACHE", str(store / "empty"))
    assert load_tokenizer(str(tiny_gguf))[0].name_or_path == str(tiny_gguf.parent)
    assert not (store / "empty").exists()  # nothing is converted for a tokenizer


def test_another_server_is_given_its_folder(store: Path, tiny_gguf: Path, tiny_model_folder: Path) -> None:
    assert served_path(str(tiny_gguf), "float32", store) == str(folder_of(store))
    assert served_path(str(tiny_model_folder), "float32", store) == str(tiny_model_folder)
    (blocked := store / "file").write_text("")
    assert served_path(str(tiny_gguf), "float32", blocked) == str(tiny_gguf)


def test_the_digest_of_the_source_is_remembered(
    store: Path, tiny_gguf: Path, tmp_path: Path, hashed: list[str]
) -> None:
    moved = Path(shutil.copy(tiny_gguf, tmp_path / "moved.gguf"))
    load(str(moved), cache=store)
    assert hashed.count("moved.gguf") == 1
    load(str(moved), cache=store)
    assert hashed.count("moved.gguf") == 1


def test_another_file_is_another_model(
    store: Path, tiny_gguf: Path, other_model_folder: Path, tmp_path: Path, readings: list[str]
) -> None:
    """The digest follows the content, also where the size stays."""
    changing = Path(shutil.copy(tiny_gguf, tmp_path / "tiny.gguf"))
    before = load(str(changing), cache=store)
    assert readings == []  # the same content
    build_tiny_gguf(other_model_folder, changing)
    assert changing.stat().st_size == tiny_gguf.stat().st_size
    after = load(str(changing), cache=store)
    assert readings == ["tiny.gguf"]
    assert after.fingerprint != before.fingerprint
    assert after.fingerprint == fingerprint(after.model, after.tokenizer)


def test_garbage_about_the_source_is_ignored(store: Path, tiny_gguf: Path, direct: LoadedModel) -> None:
    for record in (store / "models" / "sources").iterdir():
        record.write_text('{"sha256": 7')
    assert same(load(str(tiny_gguf), cache=store), direct)


# --- altered -------------------------------------------------------------------------------------
def flipped(folder: Path) -> None:
    """One bit of the weights differs; size and time of modification do not."""
    weights = folder / "model.safetensors"
    before, data = weights.stat(), bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))


ALTERATIONS: dict[str, Callable[[Path], object]] = {
    "a bit of the weights": flipped,
    "truncated": lambda folder: os.truncate(folder / "model.safetensors", 1000),
    "emptied": lambda folder: (folder / "tokenizer.json").write_text(""),
    "missing": lambda folder: (folder / "config.json").unlink(),
    "one more": lambda folder: (folder / "adapter_config.json").write_text("{}"),
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
    "garbage": lambda folder: (folder / MANIFEST).write_text("\x00[[["),
    "a list": lambda folder: (folder / MANIFEST).write_text("[]"),
    "no stamps": lambda folder: (folder / MANIFEST).write_text(
        json.dumps({"source": "", "dtype": "float32", "fingerprint": "", "files": {"config.json": ""}})
    ),
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_an_altered_conversion_is_made_again(
    store: Path, tiny_gguf: Path, direct: LoadedModel, readings: list[str], alteration: str
) -> None:
    ALTERATIONS[alteration](folder_of(store))
    assert same(load(str(tiny_gguf), cache=store), direct)
    assert readings == ["tiny.gguf"]
    assert same(load(str(tiny_gguf), cache=store), direct)
    assert readings == ["tiny.gguf"]
    assert (made := Conversion.read(folder_of(store))) is not None
    assert made.sound()


def test_a_touched_conversion_is_verified_once(
    store: Path, tiny_gguf: Path, readings: list[str], hashed: list[str]
) -> None:
    load(str(tiny_gguf), cache=store)
    (folder_of(store) / "model.safetensors").touch()
    hashed.clear()  # the conversion was copied
    for _ in range(2):
        load(str(tiny_gguf), cache=store)
    assert (hashed, readings) == (["model.safetensors"], [])


# --- interrupted, full, unwritable ---------------------------------------------------------------
def raising(error: BaseException) -> Fail:
    def save(model: object, tokenizer: object, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(bytes(100))
        raise error

    return save


def test_a_cache_that_cannot_be_written_is_done_without(
    tiny_gguf: Path, direct: LoadedModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (blocked := tmp_path / "file").write_text("")
    assert same(load(str(tiny_gguf), cache=blocked), direct)
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("memkit.models", "WARNING")
    assert "MEMKIT_CACHE" in record.getMessage()


def test_a_full_disk_is_done_without(
    tiny_gguf: Path,
    direct: LoadedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(conversion, "_save", raising(OSError(errno.ENOSPC, "No space left on device")))
        assert same(load(str(tiny_gguf), cache=tmp_path), direct)
    assert [r.levelname for r in caplog.records if "No space left" in r.getMessage()] == ["WARNING"]
    assert [path.suffix for path in (tmp_path / "models" / "converted").iterdir()] == [".lock"]
    assert converted(tiny_gguf, "float32", tmp_path) is not None  # there is room again


def test_an_interrupted_conversion_leaves_nothing(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readings: list[str]
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(conversion, "_save", raising(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            load(str(tiny_gguf), cache=tmp_path)
    places = tmp_path / "models" / "converted"
    (lock,) = places.iterdir()
    # What a process that was killed leaves behind is removed by the next.
    killed = places / f"{lock.stem}.0123.partial"
    killed.mkdir()
    (killed / "model.safetensors").write_bytes(bytes(100))
    load(str(tiny_gguf), cache=tmp_path)
    assert readings == ["tiny.gguf", "tiny.gguf"]
    assert sorted(places.iterdir()) == [folder_of(tmp_path), lock]


def another(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save another model than that which was loaded."""
    model.get_input_embeddings().weight.data[5, 0] += 1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def spaced(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save a tokenizer that encodes otherwise, with the same vocabulary."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    stored = json.loads((folder / "tokenizer.json").read_text())
    stored["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(stored))


@pytest.mark.parametrize("save", [another, spaced, raising(ValueError("cannot be saved"))])
def test_what_would_become_another_model_is_not_converted(
    tiny_gguf: Path,
    direct: LoadedModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    save: Callable[..., None],
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(conversion, "_save", save)
        assert same(load(str(tiny_gguf), cache=tmp_path), direct)
    assert [path.name for path in folder_of(tmp_path).iterdir()] == [MANIFEST]
    caplog.set_level(logging.INFO)
    caplog.clear()
    assert same(load(str(tiny_gguf), cache=tmp_path), direct)
    assert caplog.records == []  # nobody tries again at each start


def test_a_file_that_changes_meanwhile_is_not_kept(
    tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing = Path(shutil.copy(tiny_gguf, tmp_path / "tiny.gguf"))

    def touching(*arguments: Any) -> Any:
        changing.touch()
        return read_model(*arguments)

    monkeypatch.setattr(conversion, "read_model", touching)
    assert converted(changing, "float32", tmp_path) is None
    assert [path.suffix for path in (tmp_path / "models" / "converted").iterdir()] == [".lock"]


def test_what_is_no_gguf_file_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (wrong := tmp_path / "wrong.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(ModelError, match=r"cannot load the model .*wrong\.gguf"):
        load(str(wrong), cache=tmp_path)
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_the_command_says_what_people_wait_for(
    cli: Callable[..., Any], tiny_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMKIT_CACHE", str(tmp_path / "cache"))
    done = cli("doctor", "--model", tiny_gguf, "--json")
    assert done.err.splitlines() == [
        "converting tiny.gguf to float32, once; this can take minutes",
        "converted tiny.gguf",
    ]
    assert done.json["checks"]
    assert cli("doctor", "--model", tiny_gguf).err == ""
    (blocked := tmp_path / "file").write_text("")
    monkeypatch.setenv("MEMKIT_CACHE", str(blocked))
    (line,) = cli("doctor", "--model", tiny_gguf).err.splitlines()
    assert line.startswith("the converted model of tiny.gguf cannot be kept")


# --- at once -------------------------------------------------------------------------------------
def test_threads_convert_once(tiny_gguf: Path, tmp_path: Path, readings: list[str]) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: converted(tiny_gguf, "float32", tmp_path), range(4)))
    assert readings == ["tiny.gguf"]
    assert made[0] is not None
    assert made == [made[0]] * 4
    assert made[0].sound()


@pytest.mark.slow
def test_processes_convert_once(tiny_gguf: Path, direct: LoadedModel, tmp_path: Path) -> None:
    script = (
        "import logging, sys; logging.basicConfig(level='INFO');"
        "from memkit.models.loading import load; print(load(sys.argv[1]).fingerprint)"
    )
    environment = {**os.environ, "MEMKIT_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", script, str(tiny_gguf)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    done = [process.communicate(timeout=120) for process in started]
    assert [out for out, _ in done] == [f"{direct.fingerprint}\n"] * 2, done
    assert sum("INFO:memkit.models:converted" in err for _, err in done) == 1, done
    assert (made := Conversion.read(folder_of(tmp_path))) is not None
    assert made.sound()
