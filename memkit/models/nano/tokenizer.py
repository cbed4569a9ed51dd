"""Nano's tokenizer: byte-level BPE trained on generated text, with single digits and ChatML turns."""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from memkit import prompts
from memkit.models.nano import general, world
from memkit.models.nano.documents import Generator

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"
VOCABULARY = 2048
CONTEXT_WINDOW = 4096
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _corpus(documents: int, seed: int) -> Iterator[str]:
    generator = Generator(seed)
    for _ in range(documents):
        document = generator.document(facts=8, people=3, fillers=4)
        yield document.text
        for question in generator.questions(document):
            yield f"\n\n{question.text}"
            yield question.answer
    for question_text, answer in general.GENERAL:
        for _ in range(20):
            yield f"\n\n{question_text} {answer}"
    for text in (world.IDK, prompts.REPEAT, prompts.WRITE_QUESTION, *world.LIST_PEOPLE, *world.POLITE):
        for _ in range(100):
            yield f"user\n\n\n{text} assistant\nsystem"


def train_tokenizer(documents: int = 4000, seed: int = 1) -> PreTrainedTokenizerFast:
    """Train the tokenizer from scratch; the same arguments give the same vocabulary."""
    bpe = Tokenizer(models.BPE())
    # With the prefix space a word has the same tokens at the start of a text as inside it, so answers are
    # exact copies. Digits come second, so that they get no prefix of their own.
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=True), pre_tokenizers.Digits(individual_digits=True)]
    )
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        _corpus(documents, seed),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[PAD, START, END],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD, eos_token=END, model_max_length=CONTEXT_WINDOW
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
