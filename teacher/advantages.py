"""Group-relative advantages.

Legend: P problems, G samples per problem.

    A = (r - mean(r_1..r_G)) / std(r_1..r_G)        Shao et al. 2024 (DeepSeekMath), eq. 3; DeepSeek-R1, eq. 3

``scale="none"`` leaves the division out (Dr. GRPO, Liu et al. 2025, sec. 3.1: dividing weighs easy and hard problems
up).

Our deviations: the standard deviation is the population's (the papers do not say which), and a group whose rewards are
all equal (up to rounding: a weighted sum or a mean may miss the last digit) gets exactly zero, not 0/0 or +-1: it
carries no preference and is counted by the loop as zero-variance.
"""

from __future__ import annotations

from typing import Literal

import torch


def group_advantages(
    rewards_PG: torch.Tensor, scale: Literal["group_std", "none"], graded_PG: torch.Tensor | None = None
) -> torch.Tensor:
    """Advantage of each sample within its group, (P, G).

    Args:
        graded_PG: False where the grader had no verdict and the reward is the mean of the group's others: such a sample
            gets zero and does not count in the standard deviation. None: all are graded.
    """
    centred_PG = rewards_PG - rewards_PG.mean(1, keepdim=True)
    equal_P = _equal(rewards_PG)
    centred_PG = torch.where(equal_P[:, None], torch.zeros_like(centred_PG), centred_PG)
    if scale == "none":
        return centred_PG
    count_P1 = rewards_PG.shape[1] if graded_PG is None else graded_PG.sum(1, keepdim=True).clamp(min=1)
    std_P1 = (centred_PG.square().sum(1, keepdim=True) / count_P1).sqrt()
    return torch.where(equal_P[:, None], centred_PG, centred_PG / std_P1)


def zero_variance_groups(rewards_PG: torch.Tensor) -> int:
    """How many groups have one reward throughout: they teach nothing (but for the KL term)."""
    return int(_equal(rewards_PG).sum())


def _equal(rewards_PG: torch.Tensor) -> torch.Tensor:
    """Which groups (P,) have one reward throughout; rounding grows with the count of numbers that were added."""
    rounding = rewards_PG.shape[1] * torch.finfo(rewards_PG.dtype).eps
    return rewards_PG.amax(1) - rewards_PG.amin(1) <= rounding * rewards_PG.abs().amax(1)
