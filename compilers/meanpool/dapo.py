"""The terms of DAPO, each a function of plain tensors.

References
    Bridging the Memorization-Utilization Gap (2026), §3.3.3 and Table 10.
    DAPO: An Open-Source LLM Reinforcement Learning System at Scale (Yu et al., 2025): clip-higher (eq. 10),
    dynamic sampling (eq. 11), token-level loss (eq. 12), soft overlong punishment (eq. 13).
    DeepSeekMath (Shao et al., 2024): group-relative advantages (GRPO).
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-6


def overlong_punishment(lengths: Tensor, longest: int, buffer: int, factor: float) -> Tensor:
    """What is added to the reward of answers of ``lengths`` ``[…]`` tokens, from 0 down to ``-factor``.

    Nothing up to ``longest - buffer``, then linearly; all of it from ``longest`` on, where answers are cut.
    """
    if buffer == 0:
        return -factor * (lengths >= longest).float()
    over = (lengths.float() - (longest - buffer)) / buffer
    return -factor * over.clamp(0.0, 1.0)


def advantages(rewards: Tensor, valid: Tensor) -> Tensor:
    """GRPO's advantages ``[group, rollout]``: rewards less their group's mean, over its standard deviation.

    ``valid`` ``[group, rollout]`` is false for rollouts that could not be judged: they count in no mean and
    have no advantage. The deviation is that of a sample (n - 1).
    """
    count = valid.sum(1, keepdim=True).clamp(min=1)
    kept = torch.where(valid, rewards, torch.zeros_like(rewards))
    centred = torch.where(valid, rewards - kept.sum(1, keepdim=True) / count, torch.zeros_like(rewards))
    deviation = (centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return centred / (deviation + EPSILON)


def informative(accuracy: Tensor, valid: Tensor) -> Tensor:
    """Groups ``[group]`` whose valid rollouts are neither all right nor all wrong (dynamic sampling).

    ``accuracy`` ``[group, rollout]`` is the filter's metric: the binary reward without length punishment.
    """
    right = (accuracy.bool() & valid).sum(1)
    return (right > 0) & (right < valid.sum(1))


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantage: Tensor, clip_low: float, clip_high: float
) -> Tensor:
    """The clipped surrogate of every token ``[token]``, to be minimised; all arguments are ``[token]``.

    The ratio of probabilities is clipped to [1 - ``clip_low``, 1 + ``clip_high``]: clip-higher leaves
    unlikely tokens more room to become likely.
    """
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * advantage, clipped * advantage)


def token_mean(losses: Tensor, mask: Tensor) -> Tensor:
    """Mean over all tokens of a batch: long answers count for more than short ones."""
    return (losses * mask).sum() / mask.sum().clamp(min=1)
