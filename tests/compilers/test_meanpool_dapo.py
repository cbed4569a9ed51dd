"""Every term of DAPO against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from memkit.compilers.meanpool import dapo

ALL = torch.ones(1, 4, dtype=torch.bool)


def test_advantages_are_rewards_against_their_group() -> None:
    # mean 0.5; deviations ±0.5; sample variance 4 · 0.25 / 3 = 1/3; 0.5 / sqrt(1/3) = 0.8660
    found = dapo.advantages(torch.tensor([[1.0, 0.0, 1.0, 0.0]]), ALL)
    assert found.tolist()[0] == pytest.approx([0.8660, -0.8660, 0.8660, -0.8660], abs=1e-4)
    assert dapo.advantages(torch.ones(1, 4), ALL).abs().max() == 0


def test_a_rollout_that_was_not_judged_counts_nowhere() -> None:
    valid = torch.tensor([[True, True, True, False]])
    # of (1, 0, 1): mean 2/3; sample variance (1/9 + 4/9 + 1/9) / 2 = 1/3
    found = dapo.advantages(torch.tensor([[1.0, 0.0, 1.0, 9.0]]), valid)
    third = (1 / 3) / math.sqrt(1 / 3)
    assert found.tolist()[0] == pytest.approx([third, -2 * third, third, 0.0], abs=1e-4)
    assert dapo.advantages(torch.tensor([[5.0, 1.0]]), torch.tensor([[True, False]])).abs().max() == 0


def test_clip_higher() -> None:
    old = torch.zeros(6)
    ratio = torch.tensor([1.0, 1.2, 1.5, 0.5, 1.5, 0.5])
    advantage = torch.tensor([1.0, 1.0, 1.0, 1.0, -1.0, -1.0])
    found = dapo.policy_loss(ratio.log(), old, advantage, 0.2, 0.28)
    # Upwards clipped at 1.28, downwards at 0.8; the minimum keeps whatever is worse.
    assert found.tolist() == pytest.approx([-1.0, -1.2, -1.28, -0.5, 1.5, 0.8], abs=1e-6)


def test_clipped_tokens_have_no_gradient() -> None:
    logprobs = torch.tensor([math.log(1.5), math.log(0.5), 0.0], requires_grad=True)
    loss = dapo.policy_loss(logprobs, torch.zeros(3), torch.tensor([1.0, -1.0, 1.0]), 0.2, 0.28)
    loss.sum().backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([0.0, 0.0, -1.0])


def test_token_mean_weighs_tokens_alike_and_answers_by_their_length() -> None:
    # One answer of three tokens at 1 and one of a single token at 5: (3 + 5) / 4, not (1 + 5) / 2.
    losses = torch.tensor([1.0, 1.0, 1.0, 5.0, 7.0])
    assert float(dapo.token_mean(losses, torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0]))) == 2.0
    assert float(dapo.token_mean(losses, torch.zeros(5))) == 0.0


@pytest.mark.parametrize(
    ("length", "punishment"), [(1, 0.0), (500, 0.0), (525, -0.125), (550, -0.25), (600, -0.5), (900, -0.5)]
)
def test_soft_overlong_punishment(length: int, punishment: float) -> None:
    found = dapo.overlong_punishment(torch.tensor([length]), 600, 100, 0.5)
    assert float(found) == pytest.approx(punishment)


def test_overlong_punishment_without_a_buffer_is_hard() -> None:
    assert dapo.overlong_punishment(torch.tensor([599, 600]), 600, 0, 0.5).tolist() == [0.0, -0.5]


def test_groups_without_variance_are_dropped() -> None:
    accuracy = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    valid = torch.tensor([[True, True], [True, True], [True, True], [True, False], [False, False]])
    assert dapo.informative(accuracy, valid).tolist() == [False, False, True, False, False]
