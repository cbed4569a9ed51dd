"""A stage by several processes, and one that begins from a compressor of another ratio."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memkit.compilers.meanpool import checkpoint, curriculum
from memkit.compilers.meanpool.config import StageConfig, stage_config
from memkit.compilers.meanpool.curriculum import Plan
from memkit.engine.transformers import decoder_checkpoint
from memkit.errors import ConfigError
from memkit.models.loading import LoadedModel

SHAPE = {"full_every": 2, "rank": 2}
COMMON: dict[str, Any] = {
    "facts": (1, 2),
    "sequence": 64,
    "held_out": 2,
    "evaluate_every": 2,
    "precision": "fp32",
}
OPTIONS: dict[str, dict[str, Any]] = {
    "cpt1": {"samples": 8, "batch": 4, "full_lr": 1e-3, "format": "chat", "micro_tokens": 64},
    "rl": {
        "prompts": 8,
        "batch": 4,
        "mini_batch": 2,
        "rollouts": 3,
        "reward": "contains",
        "max_response": 4,
        "overlong_buffer": 2,
        "questions": 2,
        "max_prompt": 256,
        "lr": 1e-3,
        "micro_tokens": 64,
    },
}


def plan(stage: Any, store: Path, ratio: int = 16, **settings: Any) -> Plan:
    options = {**COMMON, **OPTIONS[stage]}
    return Plan(stage, ("generated",), "paper", ratio, options, out=store, evaluated=1, **settings)


@pytest.fixture(autouse=True)
def unevaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curriculum, "evaluate", lambda plan, compressor: {})


MEMBER = """
import sys
from pathlib import Path

from memkit.compilers.meanpool import curriculum
from memkit.compilers.meanpool.distributed import ProcessGroup
from memkit.models.loading import load

curriculum.evaluate = lambda plan, compressor: {}
processes, stage, store, model = ProcessGroup.of_environment(), sys.argv[1], Path(sys.argv[2]), sys.argv[3]
options, shape = eval(sys.argv[4])
plan = curriculum.Plan(stage, ("generated",), "paper", 16, options, shape, out=store)
finished = curriculum.run(plan, load(model), processes=processes)
print(processes.rank, processes.size, finished.checkpoint.about["sha256"])
"""


def by_two(stage: str, store: Path, model: Path, shape: dict[str, Any]) -> list[list[str]]:
    """What two processes print that train together: rank, size and the weights' digest."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    options = repr(({**COMMON, **OPTIONS[stage]}, shape))
    words = [sys.executable, "-c", MEMBER, stage, str(store), str(model), options]
    ranks = [{**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    members = [subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True) for env in ranks]
    return [member.communicate(timeout=240)[0].split()[-3:] for member in members]


@pytest.mark.slow
def test_two_processes_train_what_one_does(
    tiny: LoadedModel, tiny_model_folder: Path, tmp_path: Path
) -> None:
    alone = curriculum.run(plan("cpt1", tmp_path / "alone", model_options=SHAPE), tiny).checkpoint.tensors()
    said = by_two("cpt1", tmp_path / "team", tiny_model_folder, SHAPE)
    assert [each[:2] for each in said] == [["0", "2"], ["1", "2"]]
    assert said[0][2] == said[1][2]
    (file,) = (tmp_path / "team").glob("*/checkpoint.json")
    together = decoder_checkpoint.DecoderCheckpoint.open(file.parent).tensors()
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], rtol=2e-2, atol=1e-3, msg=name)


@pytest.mark.slow
def test_two_processes_reinforce_one_decoder(
    tiny: LoadedModel, tiny_model_folder: Path, tmp_path: Path
) -> None:
    compressor, _ = curriculum.begin(plan("cpt1", tmp_path, model_options=SHAPE), tiny)
    checkpoint.save(compressor, tmp_path / "sft", "sft", "tiny", [])
    said = by_two("rl", tmp_path, tiny_model_folder, {})
    assert [each[:2] for each in said] == [["0", "2"], ["1", "2"]]
    assert said[0][2] == said[1][2]


def test_a_compressor_of_another_ratio_is_gone_on_from(tiny: LoadedModel, tmp_path: Path) -> None:
    first = curriculum.run(plan("cpt1", tmp_path, model_options=SHAPE), tiny).checkpoint
    wider = plan("cpt1", tmp_path, 32, start=first.id)
    compressor, history = curriculum.begin(wider, tiny)
    assert (compressor.config.chunk, len(history)) == (32, 1)
    kept = first.tensors()
    assert all(
        torch.equal(tensor.bfloat16().float(), kept[name]) for name, tensor in compressor.tensors().items()
    )
    compressor.separate_decoder(0)  # as reinforcement learning does
    after = checkpoint.save(compressor, tmp_path / "rl", "rl", "tiny", [])
    again, _ = curriculum.begin(plan("cpt1", tmp_path, 64, start=after.id), tiny)
    assert again.decoder is again.encoder
    assert not any(name.startswith("decoder") for name in again.tensors())
    with pytest.raises(ConfigError, match="own options"):
        curriculum.begin(replace(wider, model_options=SHAPE), tiny)


def test_chunks_grow_to_the_compressors_size() -> None:
    config = stage_config("cpt1", "paper", {"chunks": [1, 2, 4], "chunks_share": 0.6})
    assert isinstance(config, StageConfig)
    sizes = [config.chunk_at(reached, 16) for reached in (0, 0.19, 0.21, 0.41, 0.59, 0.61, 1)]
    assert sizes == [1, 1, 2, 4, 4, 16, 16]
    plain = stage_config("cpt1", "paper", {"chunks_share": 0})
    assert isinstance(plain, StageConfig)
    assert plain.chunk_at(0.0, 16) == 16
    with pytest.raises(ConfigError, match="chunks"):
        stage_config("cpt1", "paper", {"chunks": [0]})
