"""The GRPO objective against plain loops, and its gradient against finite differences.

Legend: B completions of one update, T tokens (ragged), N tokens of all of them.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch

from teacher.losses import PolicyTerms, grpo_loss, token_weights

CLIPS = [(0.2, 0.2), (0.1, 0.28), (10.0, 10.0)]
AGGREGATES = ["sequence_mean", "token_mean"]


class Update(NamedTuple):
    lengths_B: torch.Tensor
    logprobs_N: torch.Tensor
    old_N: torch.Tensor
    reference_N: torch.Tensor
    advantages_B: torch.Tensor
    owner_N: torch.Tensor

    def rows(self, values_N: torch.Tensor) -> list[list[float]]:
        return [part.tolist() for part in values_N.split(self.lengths_B.tolist())]


def make_update(drift: float, lengths: tuple[int, ...] = (1, 5, 2, 9, 1, 4), seed: int = 0) -> Update:
    """``drift`` is how far the policy has moved from the sampler and from the reference, in nats."""
    generator = torch.Generator().manual_seed(seed)
    lengths_B = torch.tensor(lengths)
    logprobs_N = -3 * torch.rand(sum(lengths), generator=generator, dtype=torch.float64)
    old_N, reference_N = (
        logprobs_N + drift * torch.randn(sum(lengths), generator=generator, dtype=torch.float64)
        for _ in range(2)
    )
    advantages_B = torch.randn(len(lengths), generator=generator, dtype=torch.float64)
    advantages_B[1:2] = 0.0
    owner_N = torch.repeat_interleave(torch.arange(len(lengths)), lengths_B)
    return Update(lengths_B, logprobs_N, old_N, reference_N, advantages_B, owner_N)


def loss_of(
    update: Update, aggregate: Any, which: torch.Tensor | slice = slice(None), **settings: Any
) -> PolicyTerms:
    """The loss of some tokens of the update, as one micro-batch."""
    owner = update.owner_N[which]
    return grpo_loss(
        update.logprobs_N[which],
        update.old_N[which],
        update.reference_N[which] if settings["kl_coefficient"] else None,
        update.advantages_B[owner],
        token_weights(update.lengths_B, aggregate)[owner],
        **settings,
    )


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize(("low", "high"), CLIPS)
@pytest.mark.parametrize("kl_coefficient", [0.0, 0.001, 2.0])
@pytest.mark.parametrize("drift", [0.0, 0.5, 15.0])
def test_equals_the_plain_loops(
    naive: ModuleType, aggregate: str, low: float, high: float, kl_coefficient: float, drift: float
) -> None:
    update = make_update(drift)
    settings = {"clip_low": low, "clip_high": high, "kl_coefficient": kl_coefficient}
    loss, kl_sum, held = naive.grpo_loss(
        update.rows(update.logprobs_N),
        update.rows(update.old_N),
        update.rows(update.reference_N),
        update.advantages_B.tolist(),
        aggregate=aggregate,
        **settings,
    )
    terms = loss_of(update, aggregate, **settings)
    assert float(terms.loss) == pytest.approx(loss, rel=1e-10, abs=1e-10)
    assert float(terms.kl_sum) == pytest.approx(kl_sum if kl_coefficient else 0.0, rel=1e-10, abs=1e-10)
    assert int(terms.clipped_sum) == held
    ratios = (update.logprobs_N - update.old_N).exp().sum()
    assert float(terms.ratio_sum) == pytest.approx(float(ratios), rel=1e-10)


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize(("low", "high"), CLIPS)
def test_gradient_equals_finite_differences(aggregate: str, low: float, high: float) -> None:
    update = make_update(0.5)
    logprobs_N = update.logprobs_N.clone().requires_grad_()
    settings = {"clip_low": low, "clip_high": high, "kl_coefficient": 0.5}

    def loss(values_N: torch.Tensor) -> torch.Tensor:
        return loss_of(update._replace(logprobs_N=values_N), aggregate, **settings).loss

    assert torch.autograd.gradcheck(loss, (logprobs_N,), eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_micro_batches_add_up(aggregate: str) -> None:
    """Losses and gradients of any cut of the tokens sum to those of the whole: denominators are the update's."""
    update = make_update(0.5)
    settings = {"clip_low": 0.2, "clip_high": 0.2, "kl_coefficient": 0.1}
    gradients = []
    for parts in (1, 3, len(update.owner_N)):
        logprobs_N = update.logprobs_N.clone().requires_grad_()
        moving = update._replace(logprobs_N=logprobs_N)
        for which in torch.randperm(len(update.owner_N), generator=torch.Generator().manual_seed(1)).chunk(
            parts
        ):
            loss_of(moving, aggregate, which, **settings).loss.backward()
        gradients.append(logprobs_N.grad)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-14, rtol=0)
    torch.testing.assert_close(gradients[0], gradients[2], atol=1e-14, rtol=0)


def test_the_first_update_is_the_policy_gradient() -> None:
    """At ratio 1 and without a KL the gradient of each token is minus weight times advantage."""
    update = make_update(0.0)
    logprobs_N = update.logprobs_N.clone().requires_grad_()
    settings = {"clip_low": 0.2, "clip_high": 0.2, "kl_coefficient": 0.0}
    loss_of(update._replace(logprobs_N=logprobs_N), "sequence_mean", **settings).loss.backward()
    expected_N = -update.advantages_B[update.owner_N] / (6 * update.lengths_B[update.owner_N])
    torch.testing.assert_close(logprobs_N.grad, expected_N, atol=1e-15, rtol=0)


def test_clipping_stops_the_gradient_one_way_only() -> None:
    ratio_N = torch.tensor([2.0, 2.0, 0.5, 0.5], dtype=torch.float64)
    advantages_N = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    logprobs_N = ratio_N.log().requires_grad_()
    terms = grpo_loss(
        logprobs_N, torch.zeros(4).double(), None, advantages_N, torch.ones(4).double(),
        clip_low=0.2, clip_high=0.2, kl_coefficient=0.0,
    )  # fmt: skip
    terms.loss.backward()
    # Too far in the wanted direction (first, last): held. Too far in the unwanted one: pulled back at full strength.
    torch.testing.assert_close(logprobs_N.grad, torch.tensor([0.0, 2.0, -0.5, 0.0]).double())
    assert int(terms.clipped_sum) == 2


def test_k3_is_zero_at_the_reference_and_never_negative() -> None:
    update = make_update(3.0)
    same = update._replace(reference_N=update.logprobs_N)
    settings = {"clip_low": 0.2, "clip_high": 0.2, "kl_coefficient": 0.1}
    assert float(loss_of(same, "token_mean", **settings).kl_sum) == 0.0
    for token in range(len(update.owner_N)):
        assert loss_of(update, "token_mean", slice(token, token + 1), **settings).kl_sum > 0


def test_weights_of_both_aggregates() -> None:
    lengths_B = torch.tensor([1, 4, 0, 3])
    torch.testing.assert_close(
        token_weights(lengths_B, "sequence_mean"), torch.tensor([1 / 4, 1 / 16, 0, 1 / 12]).double()
    )
    sums_B = token_weights(lengths_B, "token_mean") * lengths_B
    torch.testing.assert_close(sums_B, torch.tensor([1, 4, 0, 3]).double() / 8)
    for aggregate in AGGREGATES:
        assert torch.isfinite(token_weights(torch.tensor([0, 0]), aggregate)).all()


def test_no_token_at_all_is_a_loss_of_zero() -> None:
    update = make_update(0.5)
    settings = {"clip_low": 0.2, "clip_high": 0.2, "kl_coefficient": 0.1}
    terms = loss_of(update, "token_mean", slice(0, 0), **settings)
    assert [float(part) for part in terms] == [0.0, 0.0, 0.0, 0.0]


def test_one_token_alone_counts_as_the_whole() -> None:
    update = make_update(0.0, lengths=(1,))
    for aggregate in AGGREGATES:
        settings = {"clip_low": 0.2, "clip_high": 0.2, "kl_coefficient": 0.0}
        assert float(loss_of(update, aggregate, **settings).loss) == pytest.approx(
            -float(update.advantages_B[0])
        )


@pytest.mark.parametrize("drift", [30.0, -30.0])
def test_far_drift_in_float32_stays_finite(drift: float) -> None:
    logprobs_N = torch.full((4,), -40.0, requires_grad=True)
    advantages_N = torch.tensor([1.0, -1.0, 0.0, 1.0])
    terms = grpo_loss(
        logprobs_N, torch.full((4,), -40.0 - drift), torch.full((4,), -40.0 + drift), advantages_N, torch.ones(4),
        clip_low=0.2, clip_high=0.2, kl_coefficient=0.001,
    )  # fmt: skip
    terms.loss.backward()
    assert all(torch.isfinite(part) for part in terms)
    assert torch.isfinite(logprobs_N.grad).all()


def test_a_reference_without_weight_is_our_own_mistake() -> None:
    zero_N = torch.zeros(1)
    settings = {"clip_low": 0.2, "clip_high": 0.2}
    for reference, coefficient in ((None, 0.1), (zero_N, 0.0)):
        with pytest.raises(AssertionError, match="reference"):
            grpo_loss(zero_N, zero_N, reference, zero_N, zero_N, kl_coefficient=coefficient, **settings)
