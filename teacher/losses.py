"""The GRPO objective: tensors in, loss and measurements out; no model, no device, no global state.

Legend: N trained tokens of a micro-batch, B completions of the whole update.

For token t of completion i, with ratio r = exp(logprob - old) and advantage A of the completion,

    surrogate = min(r A, clip(r, 1 - low, 1 + high) A)
    kl        = exp(ref - logprob) - (ref - logprob) - 1          the k3 estimator (Schulman 2020; DeepSeekMath, eq. 4)
    loss      = - sum over i, t of  w_i (surrogate - coefficient * kl)

    w_i = 1 / (B |o_i|)      "sequence_mean"  DeepSeekMath eq. 3, DeepSeek-R1 eq. 1: each completion counts alike
    w_i = 1 / sum_j |o_j|    "token_mean"     DAPO (Yu et al. 2025), eq. 8: each token counts alike

Deviations from R1's report: the ratio is each token's, as in DeepSeekMath and every public implementation (the report
prints the whole output's). The gradient of k3 as a loss term is not the gradient of the KL it estimates; that is the
papers' choice and kept.

The weights come from the whole update, not from the micro-batch, so losses of micro-batches simply add up.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

Aggregate = Literal["sequence_mean", "token_mean"]


class PolicyTerms(NamedTuple):
    """The loss of some tokens, and sums over the same tokens of what is watched (detached)."""

    loss: torch.Tensor
    kl_sum: torch.Tensor
    clipped_sum: torch.Tensor
    ratio_sum: torch.Tensor


def token_weights(lengths_B: torch.Tensor, aggregate: Aggregate) -> torch.Tensor:
    """w_i for each completion of an update from their trained lengths; a completion without tokens weighs nothing.

    In `sequence_mean`, B counts every completion, the empty ones too.
    """
    if aggregate == "token_mean":
        return torch.full_like(lengths_B, 1.0, dtype=torch.float64) / lengths_B.sum().clamp(min=1)
    return (lengths_B > 0) / (len(lengths_B) * lengths_B.clamp(min=1).double())


def grpo_loss(
    logprobs_N: torch.Tensor,
    old_N: torch.Tensor,
    reference_N: torch.Tensor | None,
    advantages_N: torch.Tensor,
    weights_N: torch.Tensor,
    *,
    clip_low: float,
    clip_high: float,
    kl_coefficient: float,
) -> PolicyTerms:
    """The loss of one micro-batch, already divided by the whole update's denominators.

    Args:
        logprobs_N: under the policy being trained; carries the gradient.
        old_N: under the policy that sampled, constant.
        reference_N: under the reference model, constant; None exactly when ``kl_coefficient`` is 0.
        advantages_N: of the completion each token belongs to.
        weights_N: `token_weights` of the completion each token belongs to.
        clip_low, clip_high: the ratio is clipped to [1 - low, 1 + high].
        kl_coefficient: weight of the KL term.
    """
    assert (reference_N is None) == (kl_coefficient == 0), (
        "a reference is needed exactly when the KL has weight"
    )
    ratio_N = (logprobs_N - old_N).exp()
    clipped_N = ratio_N.clamp(1 - clip_low, 1 + clip_high)
    surrogate_N = torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)
    if reference_N is None:
        kl_N = torch.zeros_like(logprobs_N)
    else:
        difference_N = reference_N - logprobs_N
        kl_N = difference_N.exp() - difference_N - 1
    loss = -(weights_N * (surrogate_N - kl_coefficient * kl_N)).sum()
    binds_N = (ratio_N * advantages_N) > (clipped_N * advantages_N)
    return PolicyTerms(loss, kl_N.detach().sum(), binds_N.sum(), ratio_N.detach().sum())
