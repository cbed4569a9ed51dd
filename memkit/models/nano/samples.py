"""Training samples: one document with many questions that do not attend to each other.

A sample is a tree: the root is the header and the document; each branch is a question with its answer (or a
few turns). Every branch is positioned directly after the root and attends only to the root and to itself, so
one pass trains dozens of single-question prompts.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from memkit import prompts
from memkit.models.chat import SEPARATOR, ChatFormat, text_ids
from memkit.models.nano import general, world
from memkit.models.nano.documents import Document, Generator, Question
from memkit.models.nano.words import Split

MAX_BRANCHES = 40  # of one document: the cost of attention is quadratic in all tokens
ANSWER_WEIGHT, COPY_WEIGHT, REPEAT_WEIGHT, TEXT_WEIGHT = 1.0, 0.5, 0.3, 0.05


@dataclass(frozen=True)
class Stage:
    """The difficulty of the documents from ``start`` on, a share of all training tokens."""

    start: float
    facts: tuple[int, int]
    people: tuple[int, int]
    fillers: tuple[int, int]
    long_share: float  # share of documents padded with many fillers
    words: tuple[int, int]  # in a list to copy
    copy_share: float  # share of such lists among the documents
    batch: float = 1.0  # share of the configured batch; more and smaller steps learn to copy sooner


# Grammar predicts most of a sentence, so the model learns which word starts an answer long before it learns
# to copy the rest. Lists of random words, which can be predicted only by copying, teach that.
CURRICULUM = (
    Stage(0.00, (1, 3), (1, 2), (0, 1), 0.00, (3, 10), 0.0),
    Stage(0.08, (1, 5), (1, 3), (0, 2), 0.00, (4, 20), 0.0),
    Stage(0.20, (2, 8), (1, 4), (0, 6), 0.00, (5, 30), 0.0),
    Stage(0.40, (2, 12), (1, 5), (0, 12), 0.01, (5, 50), 0.0),
    Stage(0.48, (1, 5), (1, 3), (0, 3), 0.00, (3, 15), 0.3, 0.4),
    Stage(0.58, (2, 8), (1, 4), (0, 8), 0.00, (3, 30), 0.1, 0.5),
    Stage(0.65, (1, 4), (1, 3), (0, 2), 0.00, (3, 8), 0.8, 0.5),
    Stage(0.70, (2, 12), (1, 4), (0, 10), 0.05, (3, 20), 0.08, 0.6),
    Stage(0.85, (2, 16), (1, 6), (0, 16), 0.05, (5, 40), 0.05, 0.8),
)


@dataclass(frozen=True)
class Sample:
    """``ids``, loss ``weights`` of predicting each id, branch number (0: root) and position."""

    ids: list[int]
    weights: list[float]
    branch: list[int]
    position: list[int]


@dataclass(frozen=True)
class Batch:
    """All tensors are ``[batch, tokens]`` but ``mask``: additive, ``[batch, 1, tokens, tokens]``."""

    ids: torch.Tensor
    weights: torch.Tensor
    position: torch.Tensor
    mask: torch.Tensor
    tokens: int  # without padding


class Sampler:
    """Turns generated documents into samples and samples into length-sorted batches."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, seed: int, split: Split = "train") -> None:
        self.tokenizer = tokenizer
        self.chat = ChatFormat.of(tokenizer)
        self.generator = Generator(seed, split)
        self.rng = random.Random(seed + 1)

    def encode(self, text: str) -> list[int]:
        return text_ids(self.tokenizer, text)

    # -- documents and their branches -----------------------------------------------------------
    def _document(self, stage: Stage) -> Document:
        rng = self.rng
        people = rng.randint(*stage.people)
        facts = max(rng.randint(*stage.facts), people)
        fillers = rng.randint(*stage.fillers)
        if rng.random() < stage.long_share:
            fillers = rng.randint(40, 170)
        if rng.random() < 0.08:
            return self.generator.log(facts, people, rng.randint(0, 3))
        updates = rng.choice((1, 1, 2)) if rng.random() < 0.12 else 0
        return self.generator.document(facts, people, fillers, updates)

    def _question_text(self, question: Question) -> str:
        prefix = self.rng.choice(world.POLITE) if self.rng.random() < 0.08 else ""
        return prefix + question.text

    def _branches(self, document: Document, long: bool) -> Iterator[tuple[list[tuple[str, str]], float]]:
        """(turns, weight) of each branch of a document."""
        rng, generator = self.rng, self.generator
        questions = list(generator.questions(document))[:8]
        questions += [generator.missing(document) for _ in range(rng.randint(2, 4))]
        two = (generator.confusable, generator.two_hop)
        questions += [q for draw in two for q in (draw(document), draw(document)) if q]
        questions += generator.reverses(document, 3)
        if rng.random() < 0.6:
            questions.append(Question(*rng.choice(general.GENERAL), "general"))
        for question in questions:
            yield [(self._question_text(question), question.answer)], ANSWER_WEIGHT
        if rng.random() < 0.35:
            yield self._conversation(document), ANSWER_WEIGHT
        yield from self._writing(document)
        if rng.random() < 0.15:
            names = ", ".join(dict.fromkeys(f.person.name for f in document.facts))
            yield [(rng.choice(world.LIST_PEOPLE), names)], REPEAT_WEIGHT
        if not long and rng.random() < 0.3:
            yield [(prompts.REPEAT, document.text)], REPEAT_WEIGHT

    def _writing(self, document: Document) -> Iterator[tuple[list[tuple[str, str]], float]]:
        """Requests for questions, about the whole text, a person in it or one of its sentences.

        Several samples for each document show that any fact may be chosen.
        """
        rng, generator = self.rng, self.generator
        for fact in rng.sample(document.facts, min(len(document.facts), 10)):
            person = world.WRITE_QUESTION_ABOUT_PERSON.format(name=fact.person.name)
            request = person if rng.random() < 0.15 else prompts.WRITE_QUESTION
            yield [(request, generator.about(fact).text)], ANSWER_WEIGHT
        for sentence, stated in rng.sample(document.sentences, min(len(document.sentences), 7)):
            request = prompts.WRITE_QUESTION_ABOUT.format(passage=sentence)
            yield [(request, generator.about(stated).text if stated else world.IDK)], ANSWER_WEIGHT
        yield [(prompts.WRITE_UNANSWERED, generator.missing(document).text)], ANSWER_WEIGHT
        linked = generator.two_hop(document)
        yield [(prompts.WRITE_TWO_HOP, linked.text if linked else world.IDK)], ANSWER_WEIGHT

    def _conversation(self, document: Document) -> list[tuple[str, str]]:
        """Two or three turns; a later turn about the same person may use a pronoun."""
        rng, turns, previous = self.rng, list[tuple[str, str]](), None
        for fact in rng.sample(document.facts, min(rng.randint(2, 3), len(document.facts))):
            pronoun = previous is fact.person and rng.random() < 0.6
            question = self.generator.about(fact, pronoun)
            turns.append((question.text, question.answer))
            previous = fact.person
        return turns

    def _without_context(self) -> list[list[tuple[str, str]]]:
        stranger = Document("", (), ())
        branches = [[general.GENERAL[i]] for i in self.rng.sample(range(len(general.GENERAL)), 10)]
        for _ in range(3):
            branches.append([(self.generator.missing(stranger).text, world.IDK)])
        return branches

    # -- samples --------------------------------------------------------------------------------
    def sample(self, stage: Stage) -> Sample:
        """One document, or none in one of twenty samples, with its branches."""
        if self.rng.random() < 0.05:
            return self._tree([], [(turns, ANSWER_WEIGHT) for turns in self._without_context()])
        if self.rng.random() < stage.copy_share:
            words = self.generator.words(self.rng.randint(*stage.words))
            return self._tree(self.encode(words), [([(prompts.REPEAT, words)], COPY_WEIGHT)])
        document = self._document(stage)
        context = self.encode(document.text)
        branches = list(self._branches(document, long=len(context) > 400))
        return self._tree(context, self.rng.sample(branches, min(MAX_BRANCHES, len(branches))))

    def _tree(self, context: list[int], branches: list[tuple[list[tuple[str, str]], float]]) -> Sample:
        ids = [*self.chat.header, *context]
        weights = [0.0] * len(self.chat.header) + [TEXT_WEIGHT] * len(context)
        branch, position = [0] * len(ids), list(range(len(ids)))
        root = len(ids)
        for number, (turns, weight) in enumerate(branches, start=1):
            tokens, marks = self._turns(turns, weight, bool(context))
            ids += tokens
            weights += marks
            branch += [number] * len(tokens)
            position += range(root, root + len(tokens))
        return Sample(ids, weights, branch, position)

    def _turns(
        self, turns: list[tuple[str, str]], weight: float, with_context: bool
    ) -> tuple[list[int], list[float]]:
        ids, weights = list[int](), list[float]()
        for number, (question, answer) in enumerate(turns):
            lead = [*self.chat.turn] if number else []
            text = SEPARATOR + question if with_context and not number else question
            prompt = [*lead, *self.encode(text), *self.chat.tail]
            completion = [*self.encode(answer), self.chat.end]
            ids += prompt + completion
            weights += [0.0] * len(prompt) + [weight] * len(completion)
        return ids, weights

    # -- batches --------------------------------------------------------------------------------
    def batches(self, stage: Stage, tokens: int, order: random.Random, count: int = 8) -> list[Batch]:
        """``count`` batches of at most ``tokens`` padded tokens, sorted by length inside.

        ``order`` alone decides how the long and the short ones follow each other: workers that
        share it do steps of about equal cost, and wait little for each other.
        """
        samples, total = list[Sample](), 0
        while total < count * tokens:
            samples.append(self.sample(stage))
            total += len(samples[-1].ids)
        samples.sort(key=lambda s: len(s.ids))
        groups, group = list[list[Sample]](), list[Sample]()
        for sample in samples:
            if group and (len(group) + 1) * len(sample.ids) > tokens:
                groups.append(group)
                group = []
            group.append(sample)
        groups.append(group)
        ranks = order.sample(range(count), count)
        return [collate(groups[rank * len(groups) // count]) for rank in ranks]


def collate(samples: list[Sample]) -> Batch:
    """Pad to the longest sample and build the tree mask."""
    width = max(len(s.ids) for s in samples)
    shape = (len(samples), width)
    ids = torch.zeros(shape, dtype=torch.long)
    weights, position = torch.zeros(shape), torch.zeros(shape, dtype=torch.long)
    branch = torch.full(shape, -1)
    for row, sample in enumerate(samples):
        n = len(sample.ids)
        ids[row, :n] = torch.tensor(sample.ids)
        weights[row, :n] = torch.tensor(sample.weights)
        branch[row, :n] = torch.tensor(sample.branch)
        position[row, :n] = torch.tensor(sample.position)
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    same = (branch[:, :, None] == branch[:, None, :]) | (branch[:, None, :] == 0)
    mask = torch.zeros(len(samples), 1, width, width)
    mask.masked_fill_(~(same & causal)[:, None], torch.finfo(torch.bfloat16).min)
    return Batch(ids, weights, position, mask, sum(len(s.ids) for s in samples))
