"""The terms of DAPO as functions of plain tensors.

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
    """The length penalty of answers of ``lengths`` ``[…]`` tokens, from 0 down to ``-factor``.

    It is 0 up to ``longest - buffer`` and then grows linearly until ``longest``, where answers are cut off.
    """
    if buffer == 0:
        return -factor * (lengths >= longest).float()
    over = (lengths.float() - (longest - buffer)) / buffer
    return -factor * over.clamp(0.0, 1.0)


def advantages(rewards: Tensor, valid: Tensor) -> Tensor:
    """GRPO's advantages ``[group, rollout]``: rewards less their group's mean, over its standard deviation.

    ``valid`` ``[group, rollout]`` is false for rollouts without a reward: they are left out of the mean and
    get the advantage 0. The deviation is the sample's (n - 1).
    """
    count = valid.sum(1, keepdim=True).clamp(min=1)
    known = torch.where(valid, rewards, torch.zeros_like(rewards))
    centred = torch.where(valid, rewards - known.sum(1, keepdim=True) / count, torch.zeros_like(rewards))
    deviation = (centred.square().sum(1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    return centred / (deviation + EPSILON)


def informative(accuracy: Tensor, valid: Tensor) -> Tensor:
    """A mask ``[group]`` of groups whose valid rollouts are neither all right nor all wrong (dynamic
    sampling).

    ``accuracy`` ``[group, rollout]`` is the filter's metric: the binary reward without length punishment.
    """
    right = (accuracy.bool() & valid).sum(1)
    return (right > 0) & (right < valid.sum(1))


def policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantage: Tensor, clip_low: float, clip_high: float
) -> Tensor:
    """The clipped surrogate loss of every token, ``[token]``; the three tensors are ``[token]``.

    The probability ratio is clipped to [1 - ``clip_low``, 1 + ``clip_high``]; a larger upper bound
    (clip-higher) lets unlikely tokens become more likely.
    """
    ratio = (logprobs - old_logprobs).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    return -torch.minimum(ratio * advantage, clipped * advantage)


def token_mean(losses: Tensor, mask: Tensor) -> Tensor:
    """The mean over all tokens ``[token]`` of a batch where ``mask`` is 1: long answers weigh more."""
    return (losses * mask).sum() / mask.sum().clamp(min=1)
