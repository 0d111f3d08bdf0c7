"""Advantages within a group, against plain loops.

Legend: P problems, G samples per problem.
"""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

from teacher.advantages import group_advantages, zero_variance


def random_rewards_PG(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    rewards_PG = torch.rand(40, 7, generator=generator, dtype=torch.float64).mul(5).round().div(5)
    rewards_PG[3] = 0.6
    rewards_PG[9] = 0.0
    return rewards_PG.to(dtype)


@pytest.mark.parametrize("scale", ["group_std", "none"])
@pytest.mark.parametrize("baseline", ["group_mean", "leave_one_out"])
def test_equals_the_plain_loops(naive: ModuleType, scale: str, baseline: str) -> None:
    rewards_PG = random_rewards_PG()
    expected_PG = torch.tensor(
        naive.group_advantages(rewards_PG.tolist(), scale, baseline), dtype=torch.float64
    )
    found_PG = group_advantages(rewards_PG, scale, baseline=baseline)
    torch.testing.assert_close(found_PG, expected_PG, atol=1e-10, rtol=1e-10)


def test_with_std_a_group_has_mean_zero_and_variance_one() -> None:
    advantages_PG = group_advantages(random_rewards_PG(), "group_std")
    varied = advantages_PG.abs().sum(1) > 0
    assert int((~varied).sum()) == int(zero_variance(random_rewards_PG()).sum()) >= 2
    assert advantages_PG.mean(1).abs().max() < 1e-12
    torch.testing.assert_close(advantages_PG[varied].square().mean(1), torch.ones(int(varied.sum())).double())


@pytest.mark.parametrize("scale", ["group_std", "none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_group_without_variance_gets_exactly_zero(scale: str, dtype: torch.dtype) -> None:
    # 0.1 is no binary fraction: the mean of three of them is not 0.1 in every precision.
    for reward in (0.1, 0.3, 1.1, -2.7, 1e-30, 0.0):
        for samples in (2, 3, 7, 64):
            rewards_PG = torch.full((2, samples), reward, dtype=dtype)
            assert torch.equal(group_advantages(rewards_PG, scale), torch.zeros_like(rewards_PG))
            assert int(zero_variance(rewards_PG).sum()) == 2


@pytest.mark.parametrize("scale", ["group_std", "none"])
def test_rounding_is_no_preference(scale: str) -> None:
    """An ungraded sample holds the mean of its group, which may differ from equal rewards in the last digit."""
    for samples in range(3, 40):
        rewards_PG = torch.full((1, samples), 0.9, dtype=torch.float64)
        rewards_PG[0, 0] = sum([0.9] * (samples - 1)) / (samples - 1)
        assert torch.equal(group_advantages(rewards_PG, scale), torch.zeros_like(rewards_PG))
        assert int(zero_variance(rewards_PG).sum()) == 1


def test_a_small_difference_is_a_preference() -> None:
    advantages_PG = group_advantages(
        torch.tensor([[1.0, 1.0, 1.0001, 1.0]], dtype=torch.float64), "group_std"
    )
    torch.testing.assert_close(advantages_PG[0, 2], torch.tensor(3**0.5).double(), rtol=1e-6, atol=0)
    assert int(zero_variance(torch.tensor([[1.0, 1.0001]])).sum()) == 0


def test_groups_do_not_mix() -> None:
    rewards_PG = random_rewards_PG()
    alone_PG = torch.cat([group_advantages(row_1G, "group_std") for row_1G in rewards_PG.split(1)])
    assert torch.equal(group_advantages(rewards_PG, "group_std"), alone_PG)


def test_an_ungraded_sample_does_not_count_in_the_deviation() -> None:
    """Right, wrong and six that nobody could grade: the two are one deviation from their mean, as if alone."""
    rewards_PG = torch.tensor([[1.0, 0.0] + [0.5] * 6], dtype=torch.float64)
    graded_PG = torch.tensor([[True, True] + [False] * 6])
    advantages_PG = group_advantages(rewards_PG, "group_std", graded_PG)
    assert advantages_PG.tolist() == [[1.0, -1.0] + [0.0] * 6]


def test_an_ungraded_sample_is_none_of_the_others() -> None:
    """Leave-one-out among the graded: right against one wrong is 1, and the ungraded get nothing."""
    rewards_PG = torch.tensor([[1.0, 0.0, 0.5, 0.5], [1.0, 1.0, 0.0, 2 / 3]], dtype=torch.float64)
    graded_PG = torch.tensor([[True, True, False, False], [True, True, True, False]])
    found_PG = group_advantages(rewards_PG, "none", graded_PG, "leave_one_out")
    expected_PG = torch.tensor([[1.0, -1.0, 0, 0], [0.5, 0.5, -1.0, 0]], dtype=torch.float64)
    torch.testing.assert_close(found_PG, expected_PG, atol=1e-12, rtol=0)
