"""Slow obvious twins of the evaluation's formulas: every subset and every vote is counted one by one."""

from __future__ import annotations

import itertools
import math
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


def cons_at(answers_G: Sequence[str | int | None], correct_G: Sequence[bool], k: int) -> float:
    """Every choice of k samples holds its own vote; a class is as right as its samples are on the average."""
    share = {
        answer: sum(c for a, c in zip(answers_G, correct_G, strict=True) if a == answer)
        / list(answers_G).count(answer)
        for answer in set(answers_G)
    }
    scores = []
    for choice in itertools.combinations(answers_G, k):
        votes = [answer for answer in choice if answer is not None]
        best = [answer for answer in set(votes) if all(votes.count(answer) >= votes.count(o) for o in votes)]
        scores.append(sum(share[answer] for answer in best) / len(best) if best else 0.0)
    return sum(scores) / len(scores)


def t_tail(t: float, freedom: int) -> float:
    """Two-sided tail of Student's t: the density, summed over small steps of the angle t = tan(a) sqrt(freedom)."""
    steps, start = 20_000, math.atan(abs(t) / math.sqrt(freedom))

    def area(low: float) -> float:
        width = (math.pi / 2 - low) / steps
        return sum(math.cos(low + (at + 0.5) * width) ** (freedom - 1) for at in range(steps)) * width

    return area(start) / area(0.0)


def paired(a_P: Sequence[float], b_P: Sequence[float]) -> tuple[float, float, float]:
    """Mean and standard error of the differences with Agresti & Min's four half problems, and the p-value.

    Each problem stands twice in a list and each added half problem once, so that the list needs no weights.
    """
    halves = [a - b for a, b in zip(a_P, b_P, strict=True) for _ in range(2)] + [1.0, -1.0, 0.0, 0.0]
    mean = sum(halves) / len(halves)
    variance = sum((half - mean) ** 2 for half in halves) / len(halves)
    error = math.sqrt(variance / (len(halves) / 2))
    return mean, error, t_tail(mean / error, len(a_P) - 1)


def score(values_P: Sequence[float]) -> tuple[float, float]:
    """Centre and standard error of the plus-four interval with an effective number of problems."""
    count, mean = len(values_P), sum(values_P) / len(values_P)
    between = sum((value - mean) ** 2 for value in values_P) / (count - 1)
    share = min(1.0, (count * between + 2) / (count * mean * (1 - mean) + 2))
    effective = count / share
    right, all_of_them = effective * mean + 2, effective + 4
    centre = right / all_of_them
    return centre, math.sqrt(centre * (1 - centre) / all_of_them)


def rating(ratings_P: Sequence[float], correct_P: Sequence[int], samples_P: Sequence[int]) -> float:
    """The whole rating from -1000 to 5000 with the largest likelihood."""

    def log_likelihood(at: float) -> float:
        total = 0.0
        for q, c, k in zip(ratings_P, correct_P, samples_P, strict=True):
            chance = 1 / (1 + 10 ** ((q - at) / 400))
            total += c * math.log(chance) + (k - c) * math.log(1 - chance)
        return total

    return max(range(-1000, 5001), key=log_likelihood)


def solve_rates(counts_P: Sequence[tuple[int, int]]) -> list[int]:
    """Problems in ten bins, by whole numbers: right * 10 // samples."""
    return [sum(1 for right, samples in counts_P if min(right * 10 // samples, 9) == at) for at in range(10)]
