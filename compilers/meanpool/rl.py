"""Reinforcement learning of the decoder on memory embeddings of the SFT checkpoint (§3.3.3).

Every step samples several answers to each question, rewards them and updates the decoder by DAPO
(`memkit.compilers.meanpool.dapo`). The encoder and the projection are frozen. With ``decoder="frozen"`` the
weights that prefill memory embeddings are trained; the base model still answers.
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
    """A question about a text, with the text's memory embeddings ``[chunk, hidden]``."""

    context: str
    ids: tuple[int, ...]
    memory: Tensor
    question: str
    query: tuple[int, ...]
    golds: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """The rollouts of one prompt."""

    prompt: Prompt
    answers: tuple[tuple[int, ...], ...]  # token ids; end with the end token unless cut off
    accuracy: Tensor  # [rollout], binary rewards
    valid: Tensor  # [rollout], false where there is no reward

    @property
    def tokens(self) -> int:
        return sum(len(answer) for answer in self.answers)

    @property
    def width(self) -> int:
        """The length of the question with its longest answer, in tokens."""
        return len(self.prompt.query) + max(len(answer) for answer in self.answers)

    @property
    def informative(self) -> bool:
        return bool(dapo.informative(self.accuracy[None], self.valid[None]))


class Rollouts:
    """Draws prompts, samples answers and rewards them."""

    def __init__(self, compressor: Compressor, config: RLConfig, draw: Draw, reward: RewardFunction) -> None:
        self.compressor, self.config, self.draw, self.reward = compressor, config, draw, reward
        self.base = compressor.base

    def prompts(self, rng: random.Random, count: int, reached: float) -> list[Prompt]:
        """``count`` questions, those about the same text in sequence.

        Raises `ConfigError` when hardly any question fits ``max_prompt``.
        """
        prompts = list[Prompt]()
        for _ in range(count * 20):
            if len(prompts) >= count:
                return prompts[:count]
            text = self.draw(rng, "qa", reached)
            ids = text_ids(self.base.tokenizer, text.text)[: self.config.sequence]
            positions = -(-len(ids) // self.compressor.config.chunk) * self.compressor.config.positions
            memory = self.compressor.embed(ids)
            for q in rng.sample(text.questions, min(len(text.questions), self.config.questions)):
                query = self.base.chat.query(self.base.tokenizer, q.text, True)
                if len(self.base.chat.header) + positions + len(query) <= self.config.max_prompt:
                    prompts.append(Prompt(text.text, tuple(ids), memory, q.text, tuple(query), q.answers))
        raise ConfigError(
            f"hardly any question fits max_prompt ({self.config.max_prompt}) behind its text; raise it, or "
            f"lower sequence ({self.config.sequence})"
        )

    @torch.no_grad()
    def groups(self, prompts: Sequence[Prompt], seed: int, greedy: bool = False) -> list[Group]:
        """The rewarded answers to each prompt: ``rollouts`` sampled ones, or a single ``greedy`` one."""
        groups, start = list[Group](), 0
        for end in range(1, len(prompts) + 1):
            if end == len(prompts) or prompts[end].memory is not prompts[start].memory:
                groups += self._same_text(prompts[start:end], seed + start, greedy)
                start = end
        return groups

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
            self._rewarded(prompt, answers[i * count : (i + 1) * count]) for i, prompt in enumerate(prompts)
        ]

    def _rewarded(self, prompt: Prompt, answers: Sequence[tuple[int, ...]]) -> Group:
        by_answer = dict[tuple[int, ...], float | None]()
        for answer in answers:
            if answer not in by_answer:  # equal answers are rewarded once
                text = str(self.base.tokenizer.decode(list(answer), skip_special_tokens=True)).strip()
                by_answer[answer] = self.reward(prompt.context, prompt.question, prompt.golds, text)
        rewards = [by_answer[answer] for answer in answers]
        valid = torch.tensor([value is not None for value in rewards])
        return Group(prompt, tuple(answers), torch.tensor([value or 0.0 for value in rewards]), valid)


class RLStage(Run):
    """The stage ``rl``, resumable like every `Run`."""

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
        """Sample rollouts, drop uninformative groups, and update in mini-batches."""
        groups, sampled = self._collect()
        batch = self._with_advantages(groups)
        for start in range(0, len(batch), self.config.mini_batch):
            self.loss = self._update(batch[start : start + self.config.mini_batch])
        series = self._series(sampled)
        if isinstance(self.rollouts.reward, JudgeReward):
            series |= self.processes.total(
                [{SKIPPED: (float(self.rollouts.reward.failures), 1 / self.processes.size)}]
            )
        return series

    def _collect(self) -> tuple[list[Group], list[Group]]:
        """The groups to train on, and all groups that were sampled for them."""
        config, kept, sampled = self.config, list[Group](), list[Group]()
        for draw in range(config.draws):
            seed = (config.seed * 1_000_003 + self.state.step) * config.draws + draw
            prompts = self.rollouts.prompts(random.Random(seed), config.batch, self.reached)
            groups = self.processes.gather(
                self.rollouts.groups(self.processes.run(prompts), seed + self.processes.rank)
            )
            sampled += groups
            if self.state.step < config.dynamic_sampling_after:
                return groups, sampled
            kept += [g for g in groups if g.informative]
            if len(kept) >= config.batch:
                break
        return kept[: config.batch], sampled

    def _with_advantages(self, groups: Sequence[Group]) -> list[RLBatch]:
        """Groups with their advantages and the log-probabilities of the policy that sampled them."""
        if not groups:
            return []
        config = self.config
        lengths = torch.tensor([[len(answer) for answer in g.answers] for g in groups])
        penalty = dapo.overlong_punishment(
            lengths, config.max_response, config.overlong_buffer, config.overlong_factor
        )
        accuracy, valid = torch.stack([g.accuracy for g in groups]), torch.stack([g.valid for g in groups])
        advantages = dapo.advantages(accuracy + penalty, valid)
        old = list[Tensor]()
        for part in self._parts(groups):
            with torch.no_grad():
                old += self._logprobs(part).split([g.tokens for g in part])
        return [RLBatch(*each) for each in zip(groups, advantages, old, strict=True)]

    def _update(self, batch: Sequence[RLBatch]) -> float:
        """Update the decoder by one mini-batch; returns its loss."""
        config, total, device = self.config, 0.0, self.compressor.base.model.device
        tokens = sum(
            len(a) for x in batch for a, ok in zip(x.group.answers, x.group.valid, strict=True) if ok
        )
        groups = [each.group for each in batch]
        start, parts = 0, list[tuple[Sequence[Group], Sequence[RLBatch]]]()
        for part in self._parts(groups):
            parts.append((part, batch[start : start + len(part)]))
            start += len(part)
        for part, members in self.processes.share(parts):
            advantages = torch.cat([_per_token(x.group, x.advantages) for x in members]).to(device)
            mask = torch.cat([_per_token(x.group, x.group.valid.float()) for x in members]).to(device)
            old = torch.cat([x.old for x in members])
            new = self._logprobs(part)
            losses = dapo.policy_loss(new, old, advantages, config.clip_low, config.clip_high)
            loss = dapo.token_mean(losses, mask) * mask.sum() / max(tokens, 1)
            loss.backward()
            total += float(loss.detach())
        total = sum(self.processes.gather([total]))
        self.check(total)
        warmup = min((self.state.step + 1) / max(config.warmup_steps, 1), 1.0)
        self.advance(warmup, self.compressor.decoder.parameters)
        return total

    def _parts(self, groups: Sequence[Group]) -> Iterator[Sequence[Group]]:
        """Consecutive groups with at most ``micro_tokens`` tokens (or a single group)."""
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
        """The log-probabilities ``[token]`` of all answers of the groups, in order."""
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
        """The share of wrong greedy answers to questions about held-out texts, and its series."""
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
    """A group with its ``advantages`` ``[rollout]`` and its answers' ``old`` log-probabilities
    ``[token]``."""

    group: Group
    advantages: Tensor
    old: Tensor


def _per_token(group: Group, values: Tensor) -> Tensor:
    """A value for each rollout ``[rollout]``, repeated for each of its tokens ``[token]``."""
    return values.repeat_interleave(torch.tensor([len(answer) for answer in group.answers]))
