"""The objective's formulas: tensors in, loss and measurements out; no model, no device, no global state.

Legend: N trained tokens of a micro-batch, S completions that they belong to, B completions of the whole update.

With l, old, ref, sampler the log-probabilities of a token under the policy, the policy that sampled (by the trainer's
arithmetic), the reference and the sampler (by its own arithmetic), and A the advantage of the token's completion i:

    loss = - sum over i, t of  w_i ( c_it surrogate_it - coefficient * kl_it )

    w_i        1 / (B |o_i|)         "sequence_mean"  DeepSeekMath eq. 3, DeepSeek-R1 eq. 1: completions count alike
               1 / sum_j |o_j|       "token_mean"     DAPO (Yu et al. 2025) eq. 8: tokens count alike
               1 / (B L)             "constant"       Dr. GRPO (Liu et al. 2025) sec. 3.2; L tokens is the limit
    r_it       exp(l - old)                           "token"      DeepSeekMath eq. 3
               exp(sum over t' of (l - old))          "sequence"   the whole output's, as DeepSeek-R1 eq. 1 prints it
               exp(mean over t' of (l - old))         "geometric"  GSPO (Zheng et al. 2025) sec. 4.1
    surrogate  min(r A, clip(r, 1 - low, 1 + high) A) "ppo"        the papers above
               sg(clip(r, 1 - low, 1 + high)) A l     "cispo"      MiniMax-M1 (2025) eq. 4, sg: taken as a constant
               r A                                    "none"
    kl         -d, d^2 / 2 or e^d - d - 1             k1, k2, k3 of d = ref - l (Schulman 2020; k3: DeepSeekMath eq. 4)
    c_it       1, or with q = exp(old - sampler): min(q, limit) "truncate" (Yao et al. 2025), q if 1/limit <= q <= limit
               else 0 "mask"

Deviations. R1's report prints the whole output's ratio; the public implementations and our preset `grpo-r1` take each
token's, as DeepSeekMath does. The gradient of k1 (zero on average) and of k3 as a loss is not that of the KL they
estimate; `unbiased` multiplies k3 by exp(l - old), as DeepSeek-V3.2
(2025) does, which makes it so. Log-ratios beyond
+-LARGEST are cut there and lose their gradient: exp would be no number in float32, and no update can be made of such a
token.

The weights come from the whole update, not from the micro-batch, so losses of micro-batches simply add up, as long as
none cuts a completion in two.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from distill.recipe_rl import Aggregate, Clip, Correction, Estimator, Kl, Ratio

LARGEST = 60.0


class Tokens(NamedTuple):
    """The trained tokens of some whole completions, and what is constant of each.

    ``logprobs_N`` carries the gradient. ``reference_N`` is None exactly where no KL is in the loss. ``owner_N`` says
    which completion (0 to S - 1) each token is of; ``advantages_N`` and ``weights_N`` are that completion's.
    """

    logprobs_N: torch.Tensor
    old_N: torch.Tensor
    sampler_N: torch.Tensor
    reference_N: torch.Tensor | None
    advantages_N: torch.Tensor
    weights_N: torch.Tensor
    owner_N: torch.Tensor


class PolicyTerms(NamedTuple):
    """The loss of some tokens, and sums over the same tokens of what is watched (detached).

    ``sampler_kl_sum`` estimates (k3) how far the sampler's distribution was from the policy that it should have been.
    """

    loss: torch.Tensor
    kl_sum: torch.Tensor
    clipped_sum: torch.Tensor
    ratio_sum: torch.Tensor
    sampler_ratio_sum: torch.Tensor
    sampler_kl_sum: torch.Tensor
    corrected_sum: torch.Tensor


def grpo_loss(
    tokens: Tokens, *, ratio: Ratio, clip: Clip, kl: Kl, correction: Correction | None = None
) -> PolicyTerms:
    """The loss of one micro-batch, already divided by the whole update's denominators."""
    in_loss = kl.coefficient > 0 and kl.term == "loss"
    assert (tokens.reference_N is not None) == in_loss, "a reference is needed exactly when the loss has a KL"
    ratio_N = policy_ratios(tokens, ratio)
    surrogate_N, binds_N = surrogate(ratio_N, tokens.logprobs_N, tokens.advantages_N, clip)
    to_sampler_N = _exp(tokens.old_N - tokens.sampler_N)
    weight_N, changed_N = sampler_weights(to_sampler_N, correction or Correction())
    kl_N = torch.zeros_like(tokens.logprobs_N)
    if tokens.reference_N is not None:
        kl_N = divergence(tokens.logprobs_N, tokens.reference_N, kl.estimator)
        if kl.unbiased:
            kl_N = policy_ratios(tokens, "token") * kl_N
    loss = -(tokens.weights_N * (weight_N * surrogate_N - kl.coefficient * kl_N)).sum()
    return PolicyTerms(
        loss,
        kl_N.detach().sum(),
        binds_N.sum(),
        ratio_N.detach().sum(),
        to_sampler_N.sum(),
        divergence(tokens.sampler_N, tokens.old_N, "k3").sum(),
        changed_N.sum(),
    )


def token_weights(lengths_B: torch.Tensor, aggregate: Aggregate, limit: int = 0) -> torch.Tensor:
    """w_i for each completion of an update from their trained lengths; a completion without tokens weighs nothing.

    B counts every completion, the empty (or masked) ones too. ``limit`` is L of `constant`.
    """
    full_B = torch.ones_like(lengths_B, dtype=torch.float64)
    if aggregate == "token_mean":
        return full_B / lengths_B.sum().clamp(min=1)
    if aggregate == "constant":
        assert limit > 0, "the constant is the limit of tokens"
        return full_B / (len(lengths_B) * limit)
    return (lengths_B > 0) / (len(lengths_B) * lengths_B.clamp(min=1).double())


def policy_ratios(tokens: Tokens, ratio: Ratio) -> torch.Tensor:
    """r of each token; those of one completion are one number where the ratio is the sequence's."""
    change_N = tokens.logprobs_N - tokens.old_N
    if ratio == "token":
        return _exp(change_N)
    completions = int(tokens.owner_N.max()) + 1 if len(change_N) else 0
    sum_S = change_N.new_zeros(completions).index_add(0, tokens.owner_N, change_N)
    if ratio == "geometric":
        sum_S = sum_S / torch.bincount(tokens.owner_N, minlength=completions)
    return _exp(sum_S)[tokens.owner_N]


def surrogate(
    ratio_N: torch.Tensor, logprobs_N: torch.Tensor, advantages_N: torch.Tensor, clip: Clip
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is to grow, token by token, and where the clipping changes it."""
    clipped_N = ratio_N.clamp(1 - clip.low, 1 + clip.high)
    if clip.kind == "none":
        return ratio_N * advantages_N, torch.zeros_like(ratio_N, dtype=torch.bool)
    if clip.kind == "cispo":
        changed_N = (clipped_N != ratio_N) & (advantages_N != 0)
        return clipped_N.detach() * advantages_N * logprobs_N, changed_N
    worse_N = torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)
    return worse_N, ratio_N * advantages_N > clipped_N * advantages_N


def divergence(logprobs_N: torch.Tensor, reference_N: torch.Tensor, estimator: Estimator) -> torch.Tensor:
    """An estimate of KL(policy || reference) from each token that the policy drew."""
    difference_N = (reference_N - logprobs_N).clamp(-LARGEST, LARGEST)
    if estimator == "k1":
        return -difference_N
    if estimator == "k2":
        return difference_N.square() / 2
    return difference_N.exp() - difference_N - 1


def sampler_weights(to_sampler_N: torch.Tensor, correction: Correction) -> tuple[torch.Tensor, torch.Tensor]:
    """c of each token from trainer over sampler probability, and where the limit has changed it."""
    beyond_N = to_sampler_N > correction.limit
    if correction.kind == "truncate":
        return to_sampler_N.clamp(max=correction.limit), beyond_N
    if correction.kind == "mask":
        beyond_N = beyond_N | (to_sampler_N < 1 / correction.limit)
        return torch.where(beyond_N, torch.zeros_like(to_sampler_N), to_sampler_N), beyond_N
    return torch.ones_like(to_sampler_N), torch.zeros_like(beyond_N)


def _exp(difference_N: torch.Tensor) -> torch.Tensor:
    return difference_N.clamp(-LARGEST, LARGEST).exp()
