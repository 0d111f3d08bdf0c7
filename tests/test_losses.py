"""Every word of the GRPO objective against plain loops in float64, value and gradient.

Legend: B completions of one update, T tokens (ragged), N tokens of all of them.
"""

from __future__ import annotations

import itertools
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

from distill.recipe_rl import Clip, Correction, Kl
from teacher.losses import LARGEST, PolicyTerms, Tokens, divergence, grpo_loss, token_weights

AGGREGATES = ["sequence_mean", "token_mean", "constant"]
RATIOS = ["token", "sequence", "geometric"]
CLIPS = [
    Clip(),
    Clip(low=0.1, high=0.28),
    Clip(low=10, high=10),
    Clip(kind="cispo", low=0.2, high=0.3),
    Clip(kind="none"),
]
KLS = [Kl(coefficient=0)] + [
    Kl(coefficient=coefficient, estimator=estimator, unbiased=unbiased)
    for coefficient, estimator, unbiased in itertools.product((0.001, 2.0), ("k1", "k2", "k3"), (False, True))
]
CORRECTIONS = [Correction(), Correction(kind="truncate", limit=1.2), Correction(kind="mask", limit=1.3)]
LIMIT = 11


class Update(NamedTuple):
    lengths_B: torch.Tensor
    logprobs_N: torch.Tensor
    old_N: torch.Tensor
    sampler_N: torch.Tensor
    reference_N: torch.Tensor
    advantages_B: torch.Tensor
    owner_N: torch.Tensor

    def rows(self, values_N: torch.Tensor) -> list[Any]:
        return [list(part) for part in values_N.split(self.lengths_B.tolist())]


def make_update(drift: float, lengths: tuple[int, ...] = (1, 5, 2, 9, 1, 4), seed: int = 0) -> Update:
    """``drift`` is how far the policy has moved from the sampler and from the reference, in nats."""
    generator = torch.Generator().manual_seed(seed)

    def noise() -> torch.Tensor:
        return drift * torch.randn(sum(lengths), generator=generator, dtype=torch.float64)

    lengths_B = torch.tensor(lengths)
    logprobs_N = -3 * torch.rand(sum(lengths), generator=generator, dtype=torch.float64)
    old_N = logprobs_N + noise()
    reference_N, sampler_N = logprobs_N + noise(), old_N + 0.3 * noise()
    advantages_B = torch.randn(len(lengths), generator=generator, dtype=torch.float64)
    advantages_B[1:2] = 0.0
    owner_N = torch.repeat_interleave(torch.arange(len(lengths)), lengths_B)
    return Update(lengths_B, logprobs_N, old_N, sampler_N, reference_N, advantages_B, owner_N)


def loss_of(
    update: Update,
    which: list[int] | None = None,
    *,
    aggregate: Any = "sequence_mean",
    ratio: Any = "token",
    clip: Clip = Clip(),  # noqa: B008
    kl: Kl = Kl(coefficient=0),  # noqa: B008
    correction: Correction | None = None,
) -> PolicyTerms:
    """The loss of some whole completions of the update, as one micro-batch."""
    chosen = torch.isin(
        update.owner_N, torch.tensor(range(len(update.lengths_B)) if which is None else which)
    )
    owner_N = update.owner_N[chosen]
    tokens = Tokens(
        update.logprobs_N[chosen],
        update.old_N[chosen],
        update.sampler_N[chosen],
        update.reference_N[chosen] if kl.coefficient and kl.term == "loss" else None,
        update.advantages_B[owner_N],
        token_weights(update.lengths_B, aggregate, LIMIT)[owner_N],
        owner_N.unique_consecutive(return_inverse=True)[1],
    )
    return grpo_loss(tokens, ratio=ratio, clip=clip, kl=kl, correction=correction)


def check(naive: ModuleType, update: Update, **words: Any) -> None:
    """Value, sums and gradient are those of the loops."""
    ours_N, theirs_N = (update.logprobs_N.clone().requires_grad_() for _ in range(2))
    terms = loss_of(update._replace(logprobs_N=ours_N), **words)
    terms.loss.backward()
    told = {"aggregate": "sequence_mean", "ratio": "token", "clip": Clip(), "kl": Kl(coefficient=0)} | words
    told["correction"] = told.get("correction") or Correction()
    loss, sums = naive.grpo_loss(
        update.rows(theirs_N), update.rows(update.old_N), update.rows(update.sampler_N),
        update.rows(update.reference_N), update.advantages_B.tolist(), SimpleNamespace(limit=LIMIT, **told),
    )  # fmt: skip
    loss.backward()
    assert float(terms.loss) == pytest.approx(float(loss), rel=1e-10, abs=1e-10)
    torch.testing.assert_close(ours_N.grad, theirs_N.grad, rtol=1e-10, atol=1e-10)
    for name, value in sums.items():
        assert float(getattr(terms, f"{name}_sum")) == pytest.approx(value, rel=1e-10, abs=1e-10), name


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("clip", CLIPS, ids=str)
@pytest.mark.parametrize("drift", [0.0, 0.5, 4.0])
def test_aggregate_ratio_and_clip(
    naive: ModuleType, aggregate: str, ratio: str, clip: Clip, drift: float
) -> None:
    check(naive, make_update(drift), aggregate=aggregate, ratio=ratio, clip=clip)


@pytest.mark.parametrize("kl", KLS, ids=str)
@pytest.mark.parametrize("correction", CORRECTIONS, ids=str)
@pytest.mark.parametrize("ratio", RATIOS)
def test_divergence_and_correction(naive: ModuleType, kl: Kl, correction: Correction, ratio: str) -> None:
    check(naive, make_update(0.5), kl=kl, correction=correction, ratio=ratio, aggregate="token_mean")


def test_every_pair_of_words(naive: ModuleType) -> None:
    """Every seventh of the 1,755 combinations, which hold each pair of words."""
    update = make_update(0.7, lengths=(1, 3, 2), seed=4)
    lists: list[list[Any]] = [AGGREGATES, RATIOS, CLIPS, KLS, CORRECTIONS]
    chosen = list(itertools.islice(itertools.product(*(range(len(one)) for one in lists)), 0, None, 7))
    for a, b in itertools.combinations(range(5), 2):
        assert len({(one[a], one[b]) for one in chosen}) == len(lists[a]) * len(lists[b])
    for numbers in chosen:
        values = [words[number] for words, number in zip(lists, numbers, strict=True)]
        check(
            naive,
            update,
            **dict(zip(("aggregate", "ratio", "clip", "kl", "correction"), values, strict=True)),
        )


@pytest.mark.parametrize("words", [
    {"clip": Clip()}, {"clip": Clip(kind="cispo")}, {"ratio": "sequence"}, {"ratio": "geometric", "kl": KLS[-1]},
], ids=str)  # fmt: skip
def test_gradient_equals_finite_differences(words: dict[str, Any]) -> None:
    update = make_update(0.3)
    logprobs_N = update.logprobs_N.clone().requires_grad_()
    if (
        words.get("clip", Clip()).kind == "cispo"
    ):  # its ratio is a constant, which differences would not respect
        expected_N = torch.zeros_like(logprobs_N)
        ratio_N = (update.logprobs_N - update.old_N).exp().clamp(0.8, 1.2)
        weights_N = token_weights(update.lengths_B, "sequence_mean")[update.owner_N]
        expected_N = -weights_N * ratio_N * update.advantages_B[update.owner_N]
        loss_of(update._replace(logprobs_N=logprobs_N), **words).loss.backward()
        torch.testing.assert_close(logprobs_N.grad, expected_N, atol=1e-14, rtol=1e-12)
        return

    def loss(values_N: torch.Tensor) -> torch.Tensor:
        return loss_of(update._replace(logprobs_N=values_N), **words).loss

    assert torch.autograd.gradcheck(loss, (logprobs_N,), eps=1e-6, atol=1e-7)


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("ratio", RATIOS)
def test_micro_batches_add_up(aggregate: str, ratio: str) -> None:
    """Losses and gradients of any cut into whole completions sum to those of the whole."""
    update = make_update(0.5)
    gradients = []
    for parts in ([[0, 1, 2, 3, 4, 5]], [[0, 3], [1, 4, 5], [2]], [[n] for n in range(6)]):
        logprobs_N = update.logprobs_N.clone().requires_grad_()
        moving = update._replace(logprobs_N=logprobs_N)
        for which in parts:
            words: dict[str, Any] = {"aggregate": aggregate, "ratio": ratio, "kl": Kl(coefficient=0.1)}
            loss_of(moving, which, **words).loss.backward()
        gradients.append(logprobs_N.grad)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-14, rtol=0)
    torch.testing.assert_close(gradients[0], gradients[2], atol=1e-14, rtol=0)


@pytest.mark.parametrize("clip", CLIPS, ids=str)
def test_the_first_update_is_the_policy_gradient(clip: Clip) -> None:
    """At ratio 1 and without a KL the gradient of each token is minus weight times advantage, whatever the clipping."""
    update = make_update(0.0)
    logprobs_N = update.logprobs_N.clone().requires_grad_()
    loss_of(update._replace(logprobs_N=logprobs_N), clip=clip).loss.backward()
    expected_N = -update.advantages_B[update.owner_N] / (6 * update.lengths_B[update.owner_N])
    torch.testing.assert_close(logprobs_N.grad, expected_N, atol=1e-15, rtol=0)


def test_clipping_stops_the_gradient_one_way_only() -> None:
    ratio_N = torch.tensor([2.0, 2.0, 0.5, 0.5], dtype=torch.float64)
    advantages_N = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    zero_N, one_N = torch.zeros(4).double(), torch.ones(4).double()
    found = {}
    for kind in ("ppo", "cispo", "none"):
        logprobs_N = ratio_N.log().requires_grad_()
        tokens = Tokens(logprobs_N, zero_N, zero_N, None, advantages_N, one_N, torch.arange(4))
        terms = grpo_loss(tokens, ratio="token", clip=Clip(kind=kind), kl=Kl(coefficient=0))
        terms.loss.backward()
        found[kind] = logprobs_N.grad.tolist(), int(terms.clipped_sum)
    # Too far in the wanted direction (first, last): held. Too far in the unwanted one: pulled back at full strength.
    assert found["ppo"] == (pytest.approx([0.0, 2.0, -0.5, 0.0]), 2)
    assert found["cispo"] == (pytest.approx([-1.2, 1.2, -0.8, 0.8]), 4)
    assert found["none"] == (pytest.approx([-2.0, 2.0, -0.5, 0.5]), 0)


def test_the_estimators_of_one_divergence() -> None:
    """k1 and k3 are unbiased for KL(policy || reference), summed over a small vocabulary; k3 is never below 0."""
    generator = torch.Generator().manual_seed(1)
    policy_V, reference_V = (torch.randn(7, generator=generator).double().log_softmax(0) for _ in range(2))
    truth = float((policy_V.exp() * (policy_V - reference_V)).sum())
    for estimator in ("k1", "k3"):
        kl_V = divergence(policy_V, reference_V, estimator)
        assert float((policy_V.exp() * kl_V).sum()) == pytest.approx(truth, rel=1e-12)
    assert (divergence(policy_V, reference_V, "k3") >= 0).all()
    assert float(divergence(policy_V, policy_V, "k3").abs().max()) == 0.0


def test_the_unbiased_gradient_is_that_of_the_divergence_and_the_plain_one_is_not() -> None:
    """In expectation over tokens drawn from the old policy, summed exactly over a small vocabulary."""
    generator = torch.Generator().manual_seed(2)
    logits_V = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    reference_V, old_V = (torch.randn(5, generator=generator).double().log_softmax(0) for _ in range(2))
    policy_V = logits_V.log_softmax(0)
    kl = (policy_V.exp() * (policy_V - reference_V)).sum()
    (true_V,) = torch.autograd.grad(kl, logits_V, retain_graph=True)
    found = {}
    for unbiased in (True, False):
        nothing_V = torch.zeros(5).double()
        tokens = Tokens(
            policy_V, old_V, old_V, reference_V, nothing_V, old_V.exp(), torch.arange(5)
        )  # each token weighs as often as it is drawn
        words = Kl(coefficient=1.0, estimator="k3", unbiased=unbiased)
        loss = grpo_loss(tokens, ratio="token", clip=Clip(kind="none"), kl=words).loss
        (found[unbiased],) = torch.autograd.grad(loss, logits_V, retain_graph=True)
    torch.testing.assert_close(found[True], true_V, rtol=1e-10, atol=1e-12)
    assert float((found[False] - true_V).abs().max()) > 1e-3


def test_weights_of_the_aggregates() -> None:
    lengths_B = torch.tensor([1, 4, 0, 3])
    torch.testing.assert_close(
        token_weights(lengths_B, "sequence_mean"), torch.tensor([1 / 4, 1 / 16, 0, 1 / 12]).double()
    )
    sums_B = token_weights(lengths_B, "token_mean") * lengths_B
    torch.testing.assert_close(sums_B, torch.tensor([1, 4, 0, 3]).double() / 8)
    torch.testing.assert_close(token_weights(lengths_B, "constant", 10), torch.full((4,), 1 / 40).double())
    for aggregate in ("sequence_mean", "token_mean"):
        assert torch.isfinite(token_weights(torch.tensor([0, 0]), aggregate)).all()


@pytest.mark.parametrize("ratio", RATIOS)
def test_no_token_at_all_is_a_loss_of_zero(ratio: str) -> None:
    terms = loss_of(make_update(0.5), [], ratio=ratio, kl=Kl(coefficient=0.1))
    assert [float(part) for part in terms] == [0.0] * len(terms)


@pytest.mark.parametrize("ratio", RATIOS)
def test_one_token_alone_counts_as_the_whole(ratio: str) -> None:
    update = make_update(0.0, lengths=(1,))
    for aggregate in ("sequence_mean", "token_mean"):
        found = loss_of(update, aggregate=aggregate, ratio=ratio).loss
        assert float(found) == pytest.approx(-float(update.advantages_B[0]))


@pytest.mark.parametrize("drift", [30.0, -30.0, 300.0, -300.0])
@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("clip", CLIPS, ids=str)
def test_far_drift_in_float32_stays_finite(drift: float, ratio: str, clip: Clip) -> None:
    logprobs_N = torch.full((4,), -40.0, requires_grad=True)
    advantages_N = torch.tensor([1.0, -1.0, 0.0, 1.0])
    far_N = torch.full((4,), -40.0 - drift)
    tokens = Tokens(
        logprobs_N, far_N, -80 - far_N, -80 - far_N, advantages_N, torch.ones(4), torch.tensor([0, 0, 1, 1])
    )
    correction = Correction(kind="truncate")
    terms = grpo_loss(tokens, ratio=ratio, clip=clip, kl=Kl(coefficient=0.001), correction=correction)
    terms.loss.backward()
    assert all(torch.isfinite(part) for part in terms)
    assert torch.isfinite(logprobs_N.grad).all()
    assert float(terms.ratio_sum) <= 4 * torch.tensor(LARGEST).exp()


def test_a_reference_without_weight_is_our_own_mistake() -> None:
    zero_N = torch.zeros(1)
    for reference_N, coefficient in ((None, 0.1), (zero_N, 0.0)):
        tokens = Tokens(zero_N, zero_N, zero_N, reference_N, zero_N, zero_N, torch.zeros(1, dtype=torch.long))
        with pytest.raises(AssertionError, match="reference"):
            grpo_loss(tokens, ratio="token", clip=Clip(), kl=Kl(coefficient=coefficient))
