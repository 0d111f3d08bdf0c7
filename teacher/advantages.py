"""Group-relative advantages.

Legend: P problems, G samples per problem.

    A_i = (r_i - mean(r_1..r_G)) / std(r_1..r_G)        Shao et al. 2024 (DeepSeekMath), eq. 3; DeepSeek-R1, eq. 3

``scale="none"`` leaves the division out (Dr. GRPO, Liu et al. 2025, sec. 3.1: dividing weighs easy and hard problems
up). ``baseline="leave_one_out"`` takes the mean of the group's others instead, r_i - sum_{j != i} r_j / (G - 1) (RLOO,
Ahmadian et al. 2024): the same times G / (G - 1), and independent of r_i.

Our deviations: the standard deviation is the population's, around the group's mean whatever the baseline (the papers do
not say which), and a group whose rewards are all equal (up to rounding: a weighted sum or a mean may miss the last
digit) gets exactly zero, not 0/0 or +-1: it carries no preference and is counted by the loop as zero-variance.
"""

from __future__ import annotations

from typing import Literal

import torch


def group_advantages(
    rewards_PG: torch.Tensor,
    scale: Literal["group_std", "none"],
    graded_PG: torch.Tensor | None = None,
    baseline: Literal["group_mean", "leave_one_out"] = "group_mean",
) -> torch.Tensor:
    """Advantage of each sample within its group, (P, G).

    Args:
        graded_PG: False where the grader had no verdict and the reward is the mean of the group's others: such a sample
            gets zero and counts neither in the standard deviation nor among the others. None: all are graded.
    """
    centred_PG = rewards_PG - rewards_PG.mean(1, keepdim=True)
    equal_P1 = zero_variance(rewards_PG)[:, None]
    centred_PG = torch.where(equal_P1, torch.zeros_like(centred_PG), centred_PG)
    count_P1 = torch.full_like(rewards_PG[:, :1], rewards_PG.shape[1])
    if graded_PG is not None:
        count_P1 = graded_PG.sum(1, keepdim=True).clamp(min=1).to(rewards_PG.dtype)
    std_P1 = (centred_PG.square().sum(1, keepdim=True) / count_P1).sqrt()
    if baseline == "leave_one_out":
        centred_PG = centred_PG * count_P1 / (count_P1 - 1).clamp(min=1)
    if scale == "none":
        return centred_PG
    return torch.where(equal_P1, centred_PG, centred_PG / std_P1)


def zero_variance(rewards_PG: torch.Tensor) -> torch.Tensor:
    """Which groups (P,) have one reward throughout: they teach nothing (but for the KL term).

    Rounding grows with the count of numbers that were added.
    """
    rounding = rewards_PG.shape[1] * torch.finfo(rewards_PG.dtype).eps
    return rewards_PG.amax(1) - rewards_PG.amin(1) <= rounding * rewards_PG.abs().amax(1)
