"""Slow, obvious twins of the formulas in `teacher.adaptive`: one problem at a time, one path at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence


def beta_binomial(passed: int, drawn: int, a: float, b: float) -> float:
    """The logarithm of B(a + passed, b + drawn - passed) / B(a, b)."""

    def log_beta(x: float, y: float) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    return log_beta(a + passed, b + drawn - passed) - log_beta(a, b)


def likelihood(counts: Sequence[tuple[int, int]], a: float, b: float) -> float:
    """Of all problems, with the two of half a weight that always and never pass."""
    most = max(drawn for _, drawn in counts)
    added = 0.5 * (beta_binomial(0, most, a, b) + beta_binomial(most, most, a, b))
    return added + sum(beta_binomial(passed, drawn, a, b) for passed, drawn in counts)


def credibility(tokens_PG: Sequence[Sequence[float]]) -> list[float]:
    """Tokens expected of each problem's next sample: its mean, drawn to the mean of all."""
    everything = [one for own in tokens_PG for one in own]
    mean = sum(everything) / len(everything)
    inside = sum((one - sum(own) / len(own)) ** 2 for own in tokens_PG for one in own)
    inside /= len(everything) - len(tokens_PG)
    outside = sum(len(own) * (sum(own) / len(own) - mean) ** 2 for own in tokens_PG) / (len(tokens_PG) - 1)
    size = len(everything) - sum(len(own) ** 2 for own in tokens_PG) / len(everything)
    between = (outside - inside) / (size / (len(tokens_PG) - 1))
    if between <= 0:
        return [mean] * len(tokens_PG)
    share = [len(own) / (len(own) + inside / between) for own in tokens_PG]
    return [z * sum(own) / len(own) + (1 - z) * mean for z, own in zip(share, tokens_PG, strict=True)]


def reaches(
    alpha: float,
    beta: float,
    tokens: float,
    kept: int,
    rest: int,
    cap: int,
    worths: tuple[float, float],
    later: float = 1.0,
) -> list[float]:
    """The chance that the 1st, 2nd, ... more sample is drawn, drawing one at a time while it is worth its tokens."""
    chances = [0.0] * rest

    def follow(drawn: int, gained: int, weight: float) -> None:
        if drawn == rest or kept + gained >= cap:
            return
        chance = (alpha + gained) / (alpha + beta + drawn) * (later if gained else 1.0)
        if chance * worths[0 if kept + gained == 0 else 1] < tokens:
            return
        chances[drawn] += weight
        follow(drawn + 1, gained + 1, weight * chance)
        follow(drawn + 1, gained, weight * (1 - chance))

    follow(0, 0, 1.0)
    return chances


def forgone(alpha: float, beta: float, tokens: float, rest: int, worth: float) -> float:
    """The chance that a problem without a trace would have had one, from samples that are not worth their tokens."""
    missed, stopped_at = 1.0, None
    for ahead in range(rest):
        chance = alpha / (alpha + beta + ahead)
        if stopped_at is None and chance * worth < tokens:
            stopped_at = missed
        missed *= 1 - chance
    return 0.0 if stopped_at is None else stopped_at - missed
