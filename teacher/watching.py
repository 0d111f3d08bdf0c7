"""Watching reasoning appear: what a rollout's texts show besides their rewards, as numbers for the metrics log.

Reflective words are counted by `distill.reflection`.

Legend: P problems, G samples per problem, B = P*G completions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distill.language import language_shares, share_of
from distill.loops import is_runaway

QUARTERS = 4


def loop_share(token_ids_B: Sequence[Sequence[int]]) -> float:
    """The share of completions that end in a loop (`distill.loops.is_runaway`)."""
    return sum(map(is_runaway, token_ids_B)) / len(token_ids_B)


def target_share(thoughts: Sequence[str], target: str) -> float | None:
    """The mean share of the thoughts' words in the target language, over those that hold words; None: none does.

    Unlike the reward it leaves thoughts without words out: it tells what is written, not what is earned.
    """
    shares = [share_of(found, target) for text in thoughts if (found := language_shares(text))]
    return sum(shares) / len(shares) if shares else None


def solve_rates(accuracy_PG: torch.Tensor) -> list[int]:
    """How many problems were solved in none of their samples, in a share of each quarter of (0, 1), and in all.

    Rates of exactly 0 and 1 have their own counts, the first and the last, as such groups teach nothing. Samples
    without a verdict (NaN) do not count, nor do problems that have no others.
    """
    counts = [0] * (QUARTERS + 2)
    for rate in accuracy_PG[~accuracy_PG.isnan().all(1)].nanmean(1).tolist():
        counts[0 if rate == 0 else -1 if rate == 1 else 1 + int(rate * QUARTERS)] += 1
    return counts
