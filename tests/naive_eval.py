"""Slow obvious twins of the evaluation's formulas: every subset and every vote is counted one by one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence


def pass_at_1(correct_PG: Sequence[Sequence[bool]]) -> float:
    total, problems = 0.0, 0
    for correct_G in correct_PG:
        right = 0
        for correct in correct_G:
            if correct:
                right += 1
        if len(correct_G) > 0:
            total += right / len(correct_G)
            problems += 1
    return total / problems


def pass_at_k(correct_PG: Sequence[Sequence[bool]], k: int) -> float:
    chances = []
    for correct_G in correct_PG:
        subsets = list(itertools.combinations(correct_G, k))
        chances.append(sum(any(subset) for subset in subsets) / len(subsets))
    return sum(chances) / len(chances)


def cons_at_k(answers_PG: Sequence[Sequence[str | None]], correct_PG: Sequence[Sequence[bool]]) -> float:
    """For answers of which each is always right or always wrong."""
    scores = []
    for answers_G, correct_G in zip(answers_PG, correct_PG, strict=True):
        answers = {answer for answer in answers_G if answer is not None}
        best: list[bool] = []
        for answer in answers:
            votes = answers_G.count(answer)  # type: ignore[attr-defined]
            rivals = [answers_G.count(other) for other in answers]  # type: ignore[attr-defined]
            if all(votes >= rival for rival in rivals):
                best.append(correct_G[list(answers_G).index(answer)])
        scores.append(sum(best) / len(best) if best else 0.0)
    return sum(scores) / len(scores)
