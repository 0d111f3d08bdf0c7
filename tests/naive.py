"""Slow obvious twins of the toolkit's formulas: one number at a time, in plain Python floats.

Legend: P problems, G samples per problem, B completions of one update, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch


def group_advantages(rewards_PG: Sequence[Sequence[float]], scale: str) -> list[list[float]]:
    advantages_PG = []
    for rewards_G in rewards_PG:
        mean = math.fsum(rewards_G) / len(rewards_G)
        variance = math.fsum((reward - mean) ** 2 for reward in rewards_G) / len(rewards_G)
        if max(rewards_G) == min(rewards_G):
            advantages_PG.append([0.0] * len(rewards_G))
        elif scale == "group_std":
            advantages_PG.append([(reward - mean) / math.sqrt(variance) for reward in rewards_G])
        else:
            advantages_PG.append([reward - mean for reward in rewards_G])
    return advantages_PG


def grpo_loss(
    logprobs_BT: Sequence[Sequence[float]],
    old_BT: Sequence[Sequence[float]],
    reference_BT: Sequence[Sequence[float]],
    advantages_B: Sequence[float],
    *,
    clip_low: float,
    clip_high: float,
    kl_coefficient: float,
    aggregate: str,
) -> tuple[float, float, int]:
    """Loss of the whole update (ragged rows), sum of k3, and how many tokens the clipping holds back."""
    loss, kl_sum, held = 0.0, 0.0, 0
    tokens = sum(len(row) for row in logprobs_BT)
    for i in range(len(logprobs_BT)):
        for t in range(len(logprobs_BT[i])):
            ratio = math.exp(logprobs_BT[i][t] - old_BT[i][t])
            clipped = min(max(ratio, 1 - clip_low), 1 + clip_high)
            surrogate = min(ratio * advantages_B[i], clipped * advantages_B[i])
            inverse = math.exp(reference_BT[i][t] - logprobs_BT[i][t])
            kl = inverse - math.log(inverse) - 1
            weight = (
                1 / (len(logprobs_BT) * len(logprobs_BT[i])) if aggregate == "sequence_mean" else 1 / tokens
            )
            loss -= weight * (surrogate - kl_coefficient * kl)
            kl_sum += kl
            held += surrogate < ratio * advantages_B[i]
    return loss, kl_sum, held


def response_logprobs(
    model: Any, ids: Sequence[int], prompt_length: int, temperature: float = 1.0
) -> list[float]:
    """Of one example alone, unpadded, by a model with transformers' own attention."""
    logits_TV = model(input_ids=torch.tensor([list(ids)])).logits[0].double()
    found = []
    for place in range(prompt_length, len(ids)):
        scaled = [logit / temperature for logit in logits_TV[place - 1].tolist()]
        highest = max(scaled)
        log_total = highest + math.log(math.fsum(math.exp(value - highest) for value in scaled))
        found.append(scaled[ids[place]] - log_total)
    return found


def learning_rate(step: int, steps: int, peak: float, kind: str, warmup_steps: int, final: float) -> float:
    """Climbs by equal amounts before the peak, then holds it or swings down to ``peak * final`` at the last update."""
    if step < warmup_steps:
        return sum(peak / (warmup_steps + 1) for _ in range(step + 1))
    if kind == "constant" or step == warmup_steps:
        return peak
    angle = math.pi * (step - warmup_steps) / (steps - 1 - warmup_steps)
    low = peak * final
    return low + (peak - low) * (math.cos(angle) + 1) / 2


def draw(logits_V: Sequence[float], uniform: float, temperature: float, top_p: float) -> int:
    """Walk along the (nucleus of the) distribution until the uniform number is passed."""
    if temperature == 0:
        return max(range(len(logits_V)), key=lambda token: logits_V[token])
    highest = max(logits_V)
    weights = [math.exp((logit - highest) / temperature) for logit in logits_V]
    total = math.fsum(weights)
    probabilities = [weight / total for weight in weights]
    nucleus, mass = set(), 0.0
    for token in sorted(range(len(logits_V)), key=lambda token: -probabilities[token]):
        if mass >= top_p:
            break
        nucleus.add(token)
        mass += probabilities[token]
    passed = 0.0
    for token in range(len(logits_V)):
        if token in nucleus:
            passed += probabilities[token]
            if passed > uniform * mass:
                return token
    return max(nucleus)


def is_runaway(ids: list[int]) -> bool:
    """The last max(4 p, 256) tokens have a period p of at most 512."""
    for period in range(1, 513):
        tail = ids[-max(4 * period, 256) :]
        if len(tail) == max(4 * period, 256) and all(
            tail[place] == tail[place - period] for place in range(period, len(tail))
        ):
            return True
    return False
