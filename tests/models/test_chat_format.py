"""Which token ends an answer: that of the chat template, whatever the tokenizer says."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from memkit.models.chat import ChatFormat
from memkit.models.nano.tokenizer import END, PAD, START


@pytest.fixture
def tokenizer(tiny_model_folder: Path) -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tiny_model_folder)
    return loaded


@pytest.mark.parametrize("eos", [END, PAD, START])
def test_the_template_decides(tokenizer: PreTrainedTokenizerBase, eos: str) -> None:
    """Readers of GGUF files name other tokens: that which begins a turn, or that which ends a document."""
    right = ChatFormat.of(tokenizer)
    tokenizer.eos_token = eos
    assert ChatFormat.of(tokenizer) == right
    assert tokenizer.convert_ids_to_tokens(right.end) == END
    names = tokenizer.convert_ids_to_tokens(list(right.turn))
    assert (START in names, END in names) == (True, False)


def test_a_template_that_closes_nothing_leaves_it_to_the_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] + ':' + message['content'] + '\n' }}{% endfor %}"
    )
    chat = ChatFormat.of(tokenizer)
    assert chat.end == tokenizer.eos_token_id
    assert "user:" in tokenizer.decode(list(chat.turn))
