"""The fingerprint that is kept is that of the files as they are: any change has it computed again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
from safetensors.torch import load_file, save_file

from memkit.models import fingerprint_cache, loading
from memkit.models.fingerprint import fingerprint
from memkit.models.fingerprint_cache import cached_fingerprint, hub_snapshot, identity_of
from memkit.models.loading import load
from memkit.models.reading import read_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def small_models_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint_cache, "_WORTH", 0)


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The fingerprints that are computed from here on."""
    seen = list[str]()

    def counted(*arguments: Any) -> str:
        seen.append(fingerprint(*arguments))
        return seen[-1]

    monkeypatch.setattr(loading, "fingerprint", counted)
    return seen


def records(store: Path) -> list[Path]:
    return sorted((store / "models" / "fingerprints").iterdir())


def test_it_is_computed_once(folder: Path, store: Path, computed: list[str]) -> None:
    first, again = (load(str(folder), cache=store) for _ in range(2))
    assert computed == [first.fingerprint]
    assert again.fingerprint == first.fingerprint == fingerprint(again.model, again.tokenizer)
    assert len(records(store)) == 1


def test_each_dtype_and_device_has_its_own(folder: Path, store: Path, computed: list[str]) -> None:
    prints = [load(str(folder), dtype=dtype, cache=store).fingerprint for dtype in ("float32", "bfloat16")]
    assert prints == computed
    assert prints[0] != prints[1]
    assert identity_of(folder, "float32", "cpu") != identity_of(folder, "float32", "cuda:0")
    assert identity_of(folder, "float32", "cuda:1") == identity_of(folder, "float32", "cuda:0")


def other_weights(folder: Path) -> None:
    """One weight differs; size and time of modification do not."""
    weights = folder / "model.safetensors"
    before, tensors = weights.stat(), load_file(weights)
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, weights, metadata={"format": "pt"})
    assert weights.stat().st_size == before.st_size
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))


def other_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text((folder / "chat_template.jinja").read_text() + " ")


def other_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.001}))


@pytest.mark.parametrize("change", [other_weights, other_template, other_config])
def test_a_change_has_it_computed_again(
    folder: Path, store: Path, computed: list[str], change: Callable[[Path], None]
) -> None:
    before = load(str(folder), cache=store).fingerprint
    change(folder)
    after = load(str(folder), cache=store)
    assert after.fingerprint == fingerprint(after.model, after.tokenizer)
    assert computed == [before, after.fingerprint]
    assert before != after.fingerprint
    assert len(records(store)) == 1  # the old one was replaced


def test_a_link_to_other_files_has_it_computed_again(
    folder: Path, other_model_folder: Path, store: Path, tmp_path: Path, computed: list[str]
) -> None:
    (link := tmp_path / "link").symlink_to(folder)
    first = load(str(link), cache=store).fingerprint
    assert load(str(folder), cache=store).fingerprint == first
    link.unlink()
    link.symlink_to(other_model_folder)
    assert load(str(link), cache=store).fingerprint != first
    assert len(computed) == 2


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff",
        b"[]",
        b"{",
        b"[" * 100_000,
        b'{"fingerprint": "0"}',
        "short",
        "number",
        "capitals",
        "other files",
    ],
)
def test_garbage_counts_as_absent(
    folder: Path, store: Path, computed: list[str], garbage: bytes | str
) -> None:
    right = load(str(folder), cache=store).fingerprint
    (record,) = records(store)
    kept = json.loads(record.read_text())
    wrong = {"short": "ab", "number": 7, "capitals": "F" * 64, "other files": "0" * 64}
    if isinstance(garbage, str):
        kept["fingerprint"] = wrong[garbage]
        if garbage == "other files":
            kept["identity"]["files"] = {name: [0, 0, 0, 0] for name in kept["identity"]["files"]}
    record.write_bytes(garbage if isinstance(garbage, bytes) else json.dumps(kept).encode())
    assert load(str(folder), cache=store).fingerprint == right
    assert computed == [right, right]
    assert load(str(folder), cache=store).fingerprint == right
    assert computed == [right, right]  # and the record is right again


def test_what_is_kept_is_what_is_taken(folder: Path, store: Path) -> None:
    """Without this, the other tests might pass with a record that nobody reads."""
    load(str(folder), cache=store)
    (record,) = records(store)
    kept = json.loads(record.read_text())
    record.write_text(json.dumps({**kept, "fingerprint": "0" * 64}))
    assert load(str(folder), cache=store).fingerprint == "0" * 64


def test_a_model_that_changes_while_it_is_loaded_is_not_kept(
    folder: Path, store: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def touching(*arguments: Any) -> Any:
        model = read_model(*arguments)
        (folder / "model.safetensors").touch()
        return model

    monkeypatch.setattr(loading, "read_model", touching)
    assert load(str(folder), cache=store).fingerprint == load(str(folder), cache=store).fingerprint
    assert len(computed) == 2
    assert not store.exists()


def test_a_cache_that_cannot_be_written_is_done_without(
    folder: Path, tmp_path: Path, computed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    (blocked := tmp_path / "file").write_text("")
    for _ in range(2):
        load(str(folder), cache=blocked)
    assert len(computed) == 2
    assert caplog.records == []


def test_a_shape_and_a_folder_that_refers_elsewhere_are_computed(
    folder: Path, store: Path, computed: list[str]
) -> None:
    for _ in range(2):
        load("shape:tiny", cache=store)
    assert len(computed) == 2
    (folder / "adapter_config.json").write_text("{}")
    assert identity_of(folder, "float32", "cpu") is None
    assert identity_of(folder / "absent", "float32", "cpu") is not None  # empty
    assert cached_fingerprint(None, lambda: "computed", store) == "computed"
    assert not store.exists()


def test_a_folder_of_many_files_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint_cache, "_MOST", 3)
    for name in "abc":
        (tmp_path / name).touch()
    assert identity_of(tmp_path, "float32", "cpu") is not None
    (tmp_path / "d").touch()
    assert identity_of(tmp_path, "float32", "cpu") is None


def test_a_small_model_is_hashed_each_time(
    folder: Path, store: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(path.stat().st_size for path in folder.iterdir())
    monkeypatch.setattr(fingerprint_cache, "_WORTH", size + 1)
    for _ in range(2):
        load(str(folder), cache=store)
    assert len(computed) == 2
    assert not store.exists()
    monkeypatch.setattr(fingerprint_cache, "_WORTH", size)
    for _ in range(2):
        load(str(folder), cache=store)
    assert len(computed) == 3


def test_models_of_the_hub(
    tiny_model_folder: Path,
    other_model_folder: Path,
    store: Path,
    tmp_path: Path,
    computed: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The hub's cache holds links to files that are named by their content."""
    hub = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository = hub / "models--mira--tiny"
    snapshot, blobs = repository / "snapshots" / COMMIT, repository / "blobs"
    shutil.copytree(tiny_model_folder, blobs)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for blob in blobs.iterdir():
        (snapshot / blob.name).symlink_to(Path("..", "..", "blobs", blob.name))
    first, again = (load("mira/tiny", cache=store) for _ in range(2))
    assert computed == [first.fingerprint]
    assert again.fingerprint == load(str(tiny_model_folder), cache=store).fingerprint
    assert hub_snapshot("mira/tiny", COMMIT) == snapshot
    assert hub_snapshot("mira/tiny", None) is None
    assert hub_snapshot("a/b/c", COMMIT) is None
    (blobs / "other").write_bytes((other_model_folder / "model.safetensors").read_bytes())
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(Path("..", "..", "blobs", "other"))
    assert load("mira/tiny", cache=store).fingerprint == load(str(other_model_folder)).fingerprint
