"""A tiny GGUF model, for what is loaded from such files."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from transformers import AutoModelForCausalLM, AutoTokenizer

from memkit.models.nano.tokenizer import CHAT_TEMPLATE


def build_tiny_gguf(model_folder: Path, path: Path) -> Path:
    """Write the tiny model of `memkit.testing.build_tiny_model` as GGUF, with 8 bits a weight.

    Queries and keys are not permuted as llama.cpp does it, so it is another model than that in the folder.
    """
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    config, names = model.config, sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    special = {tokenizer.pad_token, tokenizer.eos_token, "<|im_start|>"}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(names))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(names)
    writer.add_token_types([3 if name in special else 1 for name in names])
    writer.add_token_merges([" ".join(pair) for pair in _merges(model_folder)])
    writer.add_bos_token_id(tokenizer.get_vocab()["<|im_start|>"])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(CHAT_TEMPLATE)
    found = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.named_parameters():
        stored = str(found.get_name(name, try_suffixes=(".weight",)))
        weights = tensor.detach().numpy()
        if weights.ndim == 1:
            writer.add_tensor(stored, weights.astype(np.float32))
            continue
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(stored, gguf.quantize(weights, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _merges(folder: Path) -> list[list[str]]:
    merges: list[list[str]] = json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
    return merges
