"""Helpers for tests of memkit and of third-party compilers and engines: a tiny model and small inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.decoder_checkpoint import DecoderCheckpoint
from memkit.models.loading import LoadedModel
from memkit.models.nano.tokenizer import train_tokenizer

TEXT = "Mira lives in Keldor. Her dog is called Tovin. Jalo works at Brimtek. The lamp was old and quiet."
# Options with which each compiler takes a second on a tiny model; its artifacts have learned nothing.
_FEW = {"steps": 2, "self_study": 4, "agnostic": 2, "answer_tokens": 4, "warmup": 0, "self_study_again": 1}
TINY: dict[str, dict[str, Any]] = {
    "compact": {},
    "lcc": {**_FEW, "kv_steps": 2},
    "lora": {**_FEW, "rank": 2},
    "meanpool": {},  # with a checkpoint of `build_tiny_compressor`
}
TINY_OPTIONS = TINY["lcc"]
TINY_LCC: dict[str, Any] = {"compiler": "lcc", "options": TINY_OPTIONS}  # arguments of a `Memory`


def build_tiny_model(folder: Path, seed: int = 0, kv_heads: int = 1) -> Path:
    """A two-layer Llama with grouped queries and random weights, saved to ``folder``."""
    tokenizer = train_tokenizer(documents=50)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=kv_heads,
            intermediate_size=64,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            initializer_range=0.3,  # so that attention matters
            eos_token_id=2,
            pad_token_id=0,
            bos_token_id=None,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_tiny_compressor(
    base: LoadedModel, store: Path, stage: str = "sft", **options: Any
) -> DecoderCheckpoint:
    """An untrained mean-pool checkpoint for a model, saved to ``store`` as if after ``stage``.

    ``options`` are those of `memkit.compilers.meanpool.config.compressor_config`.
    """
    from memkit.compilers.meanpool.checkpoint import save
    from memkit.compilers.meanpool.config import compressor_config
    from memkit.compilers.meanpool.model import Compressor

    config = compressor_config("paper", {"full_every": 2, "rank": 2, **options})
    compressor = Compressor(base, config)
    name = f"tiny-{config.chunk}x"
    return save(
        compressor, store / f"{name}-{stage}-{base.fingerprint[:8]}-{config.decoder}", stage, name, []
    )


def query_logits(
    base: LoadedModel, prefix: kv_cache.KVPrefix, question: str = "Where does Mira live?"
) -> Tensor:
    """Logits ``[1, vocabulary]`` of the first answer token after ``prefix`` and a question."""
    query = base.chat.query(base.tokenizer, question, True)
    batch = kv_cache.AnswerBatch.of([(query, [base.chat.end])], prefix, base.model.device)
    with torch.no_grad():
        return kv_cache.answer_logits(base.model, prefix, batch)
