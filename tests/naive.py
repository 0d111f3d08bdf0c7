"""Slow obvious twins of the toolkit's formulas: one number at a time, in plain Python floats.

Legend: P problems, G samples per problem, B completions of one update, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch


def group_advantages(
    rewards_PG: Sequence[Sequence[float]], scale: str, baseline: str = "group_mean"
) -> list[list[float]]:
    advantages_PG = []
    for rewards_G in rewards_PG:
        mean = math.fsum(rewards_G) / len(rewards_G)
        variance = math.fsum((reward - mean) ** 2 for reward in rewards_G) / len(rewards_G)
        advantages_G = []
        for number, reward in enumerate(rewards_G):
            others = [other for place, other in enumerate(rewards_G) if place != number]
            compared = math.fsum(others) / len(others) if baseline == "leave_one_out" else mean
            if max(rewards_G) == min(rewards_G):
                advantages_G.append(0.0)
            else:
                advantages_G.append(
                    (reward - compared) / (math.sqrt(variance) if scale == "group_std" else 1.0)
                )
        advantages_PG.append(advantages_G)
    return advantages_PG


def clipped(value: Any, low: float, high: float) -> Any:
    return value if low <= value <= high else torch.full_like(value, low if value < low else high)


def kl_of(logprob: Any, reference: Any, estimator: str) -> Any:
    ratio = (reference - logprob).exp()
    if estimator == "k1":
        return -ratio.log()
    if estimator == "k2":
        return 0.5 * ratio.log() ** 2
    return ratio - ratio.log() - 1


def grpo_loss(
    logprobs_BT: Any,
    old_BT: Any,
    sampler_BT: Any,
    reference_BT: Any,
    advantages_B: Sequence[float],
    words: Any,
) -> tuple[Any, dict[str, float]]:
    """Loss of the whole update and sums over its tokens: ragged rows of 0-dimensional tensors, in loops.

    ``words``: aggregate, limit, ratio, clip (kind, low, high), kl (coefficient, estimator, unbiased), correction
    (kind, limit).
    """
    loss = torch.zeros((), dtype=torch.float64)
    sums = {"kl": 0.0, "clipped": 0.0, "ratio": 0.0, "corrected": 0.0}
    tokens = sum(len(row) for row in logprobs_BT)
    for i in range(len(logprobs_BT)):
        length = len(logprobs_BT[i])
        for t in range(length):
            logprob, old, advantage = logprobs_BT[i][t], old_BT[i][t], advantages_B[i]
            own_ratio = (logprob - old).exp()
            whole = torch.ones((), dtype=torch.float64)
            for s in range(length):
                whole = whole * (logprobs_BT[i][s] - old_BT[i][s]).exp()
            ratio = {"token": own_ratio, "sequence": whole, "geometric": whole ** (1 / length)}[words.ratio]
            limited = clipped(ratio, 1 - words.clip.low, 1 + words.clip.high)
            if words.clip.kind == "ppo":
                gain = min(ratio * advantage, limited * advantage)
                binds = bool(gain < ratio * advantage)
            elif words.clip.kind == "cispo":
                gain = float(limited) * advantage * logprob
                binds = float(limited) != float(ratio) and advantage != 0
            else:
                gain, binds = ratio * advantage, False
            to_sampler, corrected = float((old - sampler_BT[i][t]).exp()), False
            correct = 1.0
            if words.correction.kind == "truncate":
                correct, corrected = (
                    min(to_sampler, words.correction.limit),
                    to_sampler > words.correction.limit,
                )
            elif words.correction.kind == "mask":
                corrected = not 1 / words.correction.limit <= to_sampler <= words.correction.limit
                correct = 0.0 if corrected else to_sampler
            kl = torch.zeros((), dtype=torch.float64)
            if words.kl.coefficient:
                kl = kl_of(logprob, reference_BT[i][t], words.kl.estimator)
                kl = own_ratio * kl if words.kl.unbiased else kl
            weight = {
                "sequence_mean": 1 / (len(logprobs_BT) * length),
                "token_mean": 1 / tokens,
                "constant": 1 / (len(logprobs_BT) * words.limit),
            }[words.aggregate]
            loss = loss - weight * (correct * gain - words.kl.coefficient * kl)
            sums["kl"] += float(kl.detach())
            sums["clipped"] += binds
            sums["ratio"] += float(ratio.detach())
            sums["corrected"] += corrected
    return loss, sums


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


def bradley_terry(better: Any, worse: Any) -> Any:
    """-log of the probability that the better answer wins, from the two strengths exp(score)."""
    return -(better.exp() / (better.exp() + worse.exp())).log()


def labelled(score: Any, good: bool) -> Any:
    """-log of the probability of a label under a logistic model."""
    chance = 1 / (1 + (-score).exp())
    return -(chance if good else 1 - chance).log()
