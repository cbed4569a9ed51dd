"""Training samples of the four tasks and of plain language modelling (§3.2, Table 1, Appendix G)."""

from __future__ import annotations

import random
from collections.abc import Sequence

from memkit.compilers.meanpool.batches import Branch, Sample
from memkit.compilers.meanpool.config import StageConfig
from memkit.compilers.meanpool.prompts import instructions
from memkit.compilers.meanpool.texts import Draw, Text
from memkit.errors import ConfigError
from memkit.models.chat import SEPARATOR, text_ids
from memkit.models.loading import LoadedModel

SHORTEST = 2  # tokens of a text that can be split in two


class Sampler:
    """Turns texts into samples of one stage; ``standard`` includes plain language modelling.

    Raises `ConfigError` for a stage whose texts do not fit the model's window.
    """

    def __init__(self, base: LoadedModel, config: StageConfig, draw: Draw, standard: bool = True) -> None:
        self.base, self.config, self.draw = base, config, draw
        self.instructions = instructions(base.prompts)
        self.standard_share = config.standard_share if standard else 0.0
        self.tasks = [task for task, share in config.mixture.items() if share > 0]
        self.shares = [config.mixture[task] for task in self.tasks]
        self.header = tuple(base.chat.header) if config.format == "chat" else ()
        around = len(self.header) + len(base.chat.tail) + 1
        if config.sequence + around > base.window:
            raise ConfigError(
                f"texts of {config.sequence} tokens do not fit {base.name}, which reads {base.window:,}; "
                f"choose a sequence of at most {base.window - around}"
            )

    def sample(self, rng: random.Random, reached: float) -> Sample:
        """A sample of a random task of the mixture, or one without a memory."""
        if rng.random() < self.standard_share:
            return self.standard(self.draw(rng, "standard", reached), rng)
        (task,) = rng.choices(self.tasks, self.shares)
        return self.of(task, self.draw(rng, task, reached), rng)

    def of(self, task: str, text: Text, rng: random.Random) -> Sample:
        """A sample of one task from a text."""
        ids = self.encode(text.text)[: self.config.sequence]
        if task == "qa":
            chosen = rng.sample(text.questions, min(len(text.questions), self.config.questions))
            pairs = [(q.text, self.encode(rng.choice(q.answers))) for q in chosen]
            return self._sample(ids, [self._branch(task, question, answer) for question, answer in pairs])
        instruction = rng.choice(self.instructions[task])
        if task == "continuation" and len(ids) >= SHORTEST:
            return self._continuation(ids, instruction, rng)
        target = self.encode(text.summary) if task == "summarization" else ids
        return self._sample(ids, [self._branch(task, instruction, target)])

    def _continuation(self, ids: list[int], instruction: str, rng: random.Random) -> Sample:
        """Continue the first half with the second; bridge chunks in between stay uncompressed in the
        prompt."""
        half = len(ids) // 2
        limit = max((len(ids) - half - 1) // self.config.bridge_tokens, 0)
        bridge = min(rng.randint(*self.config.bridges), limit) * self.config.bridge_tokens
        prompt = [*self._query(instruction), *ids[half : half + bridge]]
        target = [*ids[half + bridge :], self.base.chat.end]
        return self._sample(ids[:half], [self._weighted("continuation", prompt, target)])

    def standard(self, text: Text, rng: random.Random) -> Sample:
        """Plain language modelling; in the chat format a question about the uncompressed text, if it has
        any."""
        ids = self.encode(text.text)[: self.config.sequence]
        if self.config.format == "chat" and text.questions:
            question = rng.choice(text.questions)
            prompt = (*ids, *self._query(question.text))
            answer = (*self.encode(rng.choice(question.answers)), self.base.chat.end)
            return Sample(self.header, (), (self._weighted("standard", prompt, answer),))
        return Sample(self.header, (), (self._weighted("standard", (), (*ids, self.base.chat.end)),))

    def encode(self, text: str) -> list[int]:
        return text_ids(self.base.tokenizer, text)

    def _query(self, question: str) -> list[int]:
        if self.config.format == "chat":
            return self.base.chat.query(self.base.tokenizer, question, True)
        return self.encode(f"{SEPARATOR}{question}\n")

    def _branch(self, task: str, question: str, answer: Sequence[int]) -> Branch:
        return self._weighted(task, self._query(question), [*answer, self.base.chat.end])

    def _weighted(self, task: str, prompt: Sequence[int], target: Sequence[int]) -> Branch:
        return Branch(task, tuple(prompt), tuple(target), self.config.weights.get(task, 1.0))

    def _sample(self, ids: Sequence[int], branches: Sequence[Branch]) -> Sample:
        return Sample(self.header, tuple(ids), tuple(branches))
