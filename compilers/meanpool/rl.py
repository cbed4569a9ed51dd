"""Reinforcement learning of the decoder on memory embeddings that the SFT checkpoint made (§3.3.3).

Every step answers questions several times, judges the answers and makes the better ones of each group more
likely, by DAPO (`memkit.compilers.meanpool.dapo`). The encoder and the projection stay as they are. With
``decoder="frozen"`` what is trained is how memory embeddings are read; the base still answers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from memkit.compilers.base import Progress, Step, silent
from memkit.compilers.meanpool import dapo
from memkit.compilers.meanpool.batches import Branch, Sample, collate
from memkit.compilers.meanpool.config import RLConfig
from memkit.compilers.meanpool.distributed import ProcessGroup
from memkit.compilers.meanpool.model import Compressor
from memkit.compilers.meanpool.rewards import JudgeReward, RewardFunction
from memkit.compilers.meanpool.texts import Draw
from memkit.compilers.meanpool.train import Run, autocast
from memkit.engine.transformers import kv_cache
from memkit.errors import ConfigError
from memkit.models.chat import text_ids

SKIPPED = "rollouts that the judge did not judge"


@dataclass(frozen=True)
class Prompt:
    """A question about a text, whose memory ``[chunk, hidden]`` the SFT checkpoint's encoder made."""

    context: str
    ids: tuple[int, ...]
    memory: Tensor
    question: str
    query: tuple[int, ...]
    golds: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Answers to one prompt: token ids, texts, and ``accuracy`` ``[rollout]`` where ``valid``."""

    prompt: Prompt
    answers: tuple[tuple[int, ...], ...]  # each ends with the end token unless it was cut
    accuracy: Tensor
    valid: Tensor

    @property
    def tokens(self) -> int:
        return sum(len(answer) for answer in self.answers)

    @property
    def width(self) -> int:
        """Tokens of the question and its longest answer."""
        return len(self.prompt.query) + max(len(answer) for answer in self.answers)

    @property
    def informative(self) -> bool:
        return bool(dapo.informative(self.accuracy[None], self.valid[None]))


class Rollouts:
    """Draws prompts, answers them and judges the answers."""

    def __init__(self, compressor: Compressor, config: RLConfig, draw: Draw, reward: RewardFunction) -> None:
        self.compressor, self.config, self.draw, self.reward = compressor, config, draw, reward
        self.base = compressor.base

    def prompts(self, rng: random.Random, count: int, reached: float) -> list[Prompt]:
        """Questions of as many texts as it takes; those of one text follow each other."""
        made = list[Prompt]()
        for _ in range(count * 20):
            if len(made) >= count:
                return made[:count]
            text = self.draw(rng, "qa", reached)
            ids = text_ids(self.base.tokenizer, text.text)[: self.config.sequence]
            taken = -(-len(ids) // self.compressor.config.chunk) * self.compressor.config.positions
            memory = self.compressor.embed(ids)
            for q in rng.sample(text.questions, min(len(text.questions), self.config.questions)):
                query = self.base.chat.query(self.base.tokenizer, q.text, True)
                if len(self.base.chat.header) + taken + len(query) <= self.config.max_prompt:
                    made.append(Prompt(text.text, tuple(ids), memory, q.text, tuple(query), q.answers))
        raise ConfigError(
            f"hardly any question fits max_prompt ({self.config.max_prompt}) behind its text; raise it, or "
            f"lower sequence ({self.config.sequence})"
        )

    @torch.no_grad()
    def groups(self, prompts: Sequence[Prompt], seed: int, greedy: bool = False) -> list[Group]:
        """``rollouts`` sampled answers to each prompt, or a ``greedy`` one, judged."""
        made, start = list[Group](), 0
        for end in range(1, len(prompts) + 1):
            if end == len(prompts) or prompts[end].memory is not prompts[start].memory:
                made += self._same_text(prompts[start:end], seed + start, greedy)
                start = end
        return made

    def _same_text(self, prompts: Sequence[Prompt], seed: int, greedy: bool) -> list[Group]:
        config, end = self.config, self.base.chat.end
        count = 1 if greedy else config.rollouts
        front = self.compressor.front(self.base.chat.header)
        memory = self.compressor.wrapped(prompts[0].memory)[None].to(self.base.model.dtype)
        prefix = kv_cache.KVCache.of(self.compressor.read(memory, front))
        decoded = kv_cache.decode(
            self.compressor.answering,
            prefix,
            [prompt.query for prompt in prompts for _ in range(count)],
            max_tokens=config.max_response,
            end=end,
            temperature=0.0 if greedy else config.temperature,
            generator=torch.Generator(self.base.model.device).manual_seed(seed),
        )
        answers = [
            (*row.ids, end) if len(row.ids) < config.max_response else tuple(row.ids) for row in decoded
        ]
        return [
            self._judged(prompt, answers[i * count : (i + 1) * count]) for i, prompt in enumerate(prompts)
        ]

    def _judged(self, prompt: Prompt, answers: Sequence[tuple[int, ...]]) -> Group:
        known = dict[tuple[int, ...], float | None]()
        for answer in answers:
            if answer not in known:  # the same answer is judged once
                said = str(self.base.tokenizer.decode(list(answer), skip_special_tokens=True)).strip()
                known[answer] = self.reward(prompt.context, prompt.question, prompt.golds, said)
        found = [known[answer] for answer in answers]
        valid = torch.tensor([value is not None for value in found])
        return Group(prompt, tuple(answers), torch.tensor([value or 0.0 for value in found]), valid)


class RLStage(Run):
    """The stage ``rl``, resumable as every `Run`."""

    config: RLConfig
    from_the_start = True

    def __init__(
        self,
        rollouts: Rollouts,
        held_out: Rollouts,
        folder: Path,
        key: str,
        progress: Progress = silent,
        processes: ProcessGroup | None = None,
    ) -> None:
        self.rollouts, self.held_out, self.loss = rollouts, held_out, 0.0
        config, compressor = rollouts.config, rollouts.compressor
        for parameter in compressor.trained:
            parameter.requires_grad_(False)
        for parameter in compressor.decoder.parameters:
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(
            compressor.decoder.parameters, lr=config.lr, weight_decay=config.weight_decay
        )
        super().__init__(compressor, [optimizer], config, folder, key, progress, processes)

    def step(self) -> dict[str, tuple[float, float]]:
        """Roll out, judge, drop what teaches nothing, and update in mini-batches."""
        groups, seen = self._collect()
        lessons = self._lessons(groups)
        for start in range(0, len(lessons), self.config.mini_batch):
            self.loss = self._update(lessons[start : start + self.config.mini_batch])
        series = self._series(seen)
        if isinstance(self.rollouts.reward, JudgeReward):
            series |= self.processes.total(
                [{SKIPPED: (float(self.rollouts.reward.failures), 1 / self.processes.size)}]
            )
        return series

    def _collect(self) -> tuple[list[Group], list[Group]]:
        """The groups to learn from, and all that were rolled out for them."""
        config, kept, seen = self.config, list[Group](), list[Group]()
        for draw in range(config.draws):
            seed = (config.seed * 1_000_003 + self.state.step) * config.draws + draw
            prompts = self.rollouts.prompts(random.Random(seed), config.batch, self.reached)
            found = self.processes.gather(
                self.rollouts.groups(self.processes.run(prompts), seed + self.processes.rank)
            )
            seen += found
            if self.state.step < config.dynamic_sampling_after:
                return found, seen
            kept += [g for g in found if g.informative]
            if len(kept) >= config.batch:
                break
        return kept[: config.batch], seen

    def _lessons(self, groups: Sequence[Group]) -> list[RLBatch]:
        """Groups with their advantages and what the policy that answered thought of the answers."""
        if not groups:
            return []
        config = self.config
        lengths = torch.tensor([[len(answer) for answer in g.answers] for g in groups])
        punished = dapo.overlong_punishment(
            lengths, config.max_response, config.overlong_buffer, config.overlong_factor
        )
        accuracy, valid = torch.stack([g.accuracy for g in groups]), torch.stack([g.valid for g in groups])
        advantages = dapo.advantages(accuracy + punished, valid)
        old = list[Tensor]()
        for part in self._parts(groups):
            with torch.no_grad():
                old += self._logprobs(part).split([g.tokens for g in part])
        return [RLBatch(*found) for found in zip(groups, advantages, old, strict=True)]

    def _update(self, lessons: Sequence[RLBatch]) -> float:
        """One update by a mini-batch; returns its loss."""
        config, total, device = self.config, 0.0, self.compressor.base.model.device
        learned = sum(
            len(a) for x in lessons for a, ok in zip(x.group.answers, x.group.valid, strict=True) if ok
        )
        groups = [lesson.group for lesson in lessons]
        start, parts = 0, list[tuple[Sequence[Group], Sequence[RLBatch]]]()
        for part in self._parts(groups):
            parts.append((part, lessons[start : start + len(part)]))
            start += len(part)
        for part, mine in self.processes.share(parts):
            each = torch.cat([_per_token(x.group, x.advantages) for x in mine]).to(device)
            mask = torch.cat([_per_token(x.group, x.group.valid.float()) for x in mine]).to(device)
            old = torch.cat([x.old for x in mine])
            losses = dapo.policy_loss(self._logprobs(part), old, each, config.clip_low, config.clip_high)
            loss = dapo.token_mean(losses, mask) * mask.sum() / max(learned, 1)
            loss.backward()
            total += float(loss.detach())
        total = sum(self.processes.gather([total]))
        self.check(total)
        warm = min((self.state.step + 1) / max(config.warmup_steps, 1), 1.0)
        self.advance(warm, self.compressor.decoder.parameters)
        return total

    def _parts(self, groups: Sequence[Group]) -> Iterator[Sequence[Group]]:
        """Runs of groups of at most ``micro_tokens`` tokens (or one group)."""
        start, widest = 0, 0
        for end, group in enumerate(groups):
            widest = max(widest, group.width)
            rows = (end + 1 - start) * self.config.rollouts
            if end > start and rows * widest > self.config.micro_tokens:
                yield groups[start:end]
                start, widest = end, group.width
        if groups:
            yield groups[start:]

    def _logprobs(self, groups: Sequence[Group]) -> Tensor:
        """Log-probabilities ``[token]`` of all answers of some groups, in order."""
        base, shape = self.compressor.base, self.compressor.config
        header, samples = tuple(base.chat.header), list[Sample]()
        for g in groups:
            branches = tuple(Branch("rl", g.prompt.query, answer) for answer in g.answers)
            samples.append(Sample(header, g.prompt.ids, branches))
        batch = collate(samples, shape.chunk, shape.positions, base.model.device)
        with autocast(self.compressor, self.config.precision):
            return self.compressor(batch, torch.cat([g.prompt.memory for g in groups]))  # type: ignore[no-any-return]

    def _series(self, groups: Sequence[Group]) -> dict[str, tuple[float, float]]:
        right = sum(float((g.accuracy * g.valid).sum()) for g in groups)
        lengths = [len(answer) for g in groups for answer in g.answers]
        return {
            "reward": (right, float(sum(int(g.valid.sum()) for g in groups))),
            "answer tokens": (float(sum(lengths)), float(len(lengths))),
            "informative groups": (float(sum(g.informative for g in groups)), float(len(groups))),
        }

    def measure(self) -> tuple[float, dict[str, float]]:
        """Share of wrong greedy answers to questions about held-out texts."""
        config = self.config
        rng, held_out = random.Random(config.seed + 1), self.held_out
        prompts = held_out.prompts(rng, config.held_out * config.questions, 1.0)
        series = self._series(held_out.groups(prompts, 0, greedy=True))
        (right, judged), (tokens, answers) = series["reward"], series["answer tokens"]
        reward = right / max(judged, 1.0)
        return 1.0 - reward, {"reward": reward, "answer tokens": tokens / max(answers, 1.0)}

    def report(self) -> None:
        state = self.state
        self.progress(Step("rl", state.step, self.config.steps, self.loss, state.seconds))


@dataclass(frozen=True)
class RLBatch:
    """A group, its ``advantages`` ``[rollout]`` and ``old`` log-probabilities ``[token]`` of its answers."""

    group: Group
    advantages: Tensor
    old: Tensor


def _per_token(group: Group, values: Tensor) -> Tensor:
    """A value for each rollout ``[rollout]``, repeated for each of its tokens ``[token]``."""
    return values.repeat_interleave(torch.tensor([len(answer) for answer in group.answers]))
