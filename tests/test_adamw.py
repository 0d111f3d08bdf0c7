"""AdamW for bfloat16 weights and eight-bit moments: against torch's own, and that small updates are not lost."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distill.training.adamw import SMALLEST_IN_8_BIT, LeanAdamW, round_at_random

SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.95)}


def train(optimiser: type | Any, weight: torch.nn.Parameter, steps: int, **settings: Any) -> torch.Tensor:
    """Minimise a square with noise in it, the same noise for everybody."""
    adamw = optimiser([{"params": [weight], "weight_decay": 0.1}], **SETTINGS, **settings)
    noise = torch.Generator().manual_seed(1)
    target = torch.linspace(-1, 1, weight.numel()).view(weight.shape)
    for _ in range(steps):
        gradient = weight.detach().float() - target + 0.1 * torch.randn(weight.shape, generator=noise)
        weight.grad = gradient.to(weight.dtype)
        adamw.step()
    return weight.detach().float()


def parameter(dtype: torch.dtype = torch.float32, size: int = 100) -> torch.nn.Parameter:
    torch.manual_seed(0)
    return torch.nn.Parameter(torch.randn(size, 64).to(dtype))


def test_in_float32_it_is_torchs_own() -> None:
    torch.testing.assert_close(
        train(LeanAdamW, parameter(), 20, eight_bit=False), train(torch.optim.AdamW, parameter(), 20)
    )


def test_eight_bit_moments_follow_float32_ones() -> None:
    """Within what eight bits leave of the step: a few per cent of the way that the weights have gone."""
    pytest.importorskip("bitsandbytes")
    start, exact = parameter().detach(), train(torch.optim.AdamW, parameter(), 50)
    lean = train(LeanAdamW, parameter(), 50, eight_bit=True)
    way = (exact - start).abs().mean()
    assert 0 < (lean - exact).abs().mean() < 0.03 * way
    small = parameter(size=(SMALLEST_IN_8_BIT // 64) - 1)
    adamw = LeanAdamW([{"params": [small]}], **SETTINGS, eight_bit=True)
    small.grad = torch.ones_like(small)
    adamw.step()
    assert adamw.state[small]["m"].dtype == torch.float32


def test_the_mean_of_many_roundings_is_the_value() -> None:
    torch.manual_seed(0)
    values = torch.tensor([1.0 + 1 / 512, -3.0 - 1 / 100, 1e-20, 65504.5, 0.0])
    mean = torch.stack([round_at_random(values).double() for _ in range(20_000)]).mean(0)
    # The standard error of a mean of 20,000 roundings to 8 bits is below 2^-9 / sqrt(20,000) of the value.
    torch.testing.assert_close(mean, values.double(), rtol=5 * 2**-9 / 20_000**0.5, atol=0)
    assert {float(round_at_random(values[:1])) for _ in range(100)} == {1.0, 1.0078125}
    odd = torch.tensor([float("inf"), float("-inf"), float("nan")])
    assert torch.equal(round_at_random(odd)[:2].float(), odd[:2]) and round_at_random(odd)[2].isnan()


def test_updates_too_small_for_bfloat16_arrive_all_the_same() -> None:
    """A thousand steps of 1e-4 on a weight of 1: to the nearest, every one of them is lost."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.ones(2000, dtype=torch.bfloat16))
    adamw = LeanAdamW([{"params": [weight]}], lr=1e-4, betas=(0.9, 0.95), eight_bit=False)
    nearest = torch.ones(2000, dtype=torch.bfloat16)
    for _ in range(1000):
        weight.grad = torch.ones_like(weight)
        adamw.step()
        nearest -= 1e-4
    assert torch.equal(nearest, torch.ones_like(nearest))
    assert abs(float(weight.float().mean()) - 0.9) < 1e-3
